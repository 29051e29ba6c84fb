"""What an endpoint sets of the gate's limits for itself; how they are used is in `rollouts`."""

from collections.abc import Mapping

import msgspec


class GateOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits of the gate (reliability B3, row 7) by their names there; None: the server's own.

    `requests_min` 0 turns the gate off for this endpoint.
    """

    requests_min: int | None = None
    errors_share: float | None = None
    errors_ratio: float | None = None
    empty_share: float | None = None
    empty_ratio: float | None = None
    ttft_min_s: float | None = None
    ttft_ratio: float | None = None
    ttft_max_s: float | None = None


SERVERS_GATE = GateOptions()


def gate_document(options: GateOptions) -> dict[str, object]:
    """As a JSON column keeps it: only what is set."""
    document: dict[str, object] = msgspec.to_builtins(options)
    return document


def read_gate(document: Mapping[str, object]) -> GateOptions:
    """The reverse of `gate_document`."""
    return msgspec.convert(document, GateOptions)
