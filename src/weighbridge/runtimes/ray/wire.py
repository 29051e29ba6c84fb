"""What the control process and its Ray driver say to each other: JSON lines on the driver's standard streams.

The driver's first line is a greeting: it has connected, or why it could not. Then each line to it is a call, each
line from it an answer with the call's number, in any order. The end of its input is the end of the driver.
"""

import msgspec

from weighbridge.runtimes import wire

LINE_BYTES_MAX = wire.REPLY_BYTES_MAX
CALLS_MAX = 64
"""Calls under way at once."""
AWAY_CODE = "ray_away"
"""Of a refusal: the driver lives, and the cluster does not answer it."""
NODE_LOST_CODE = "ray_own_node_lost"
"""Of a refusal: the Ray node that the driver has joined through is no more, so its calls to actors end nowhere."""


class Greeting(msgspec.Struct, frozen=True, omit_defaults=True):
    """`error_code` is empty when the driver has connected."""

    ray_version: str = ""
    python_version: str = ""
    error_code: str = ""
    error_message: str = ""


class Call(msgspec.Struct, frozen=True):
    number: int
    request: wire.Request


class Answer(msgspec.Struct, frozen=True):
    number: int
    reply: wire.Reply
