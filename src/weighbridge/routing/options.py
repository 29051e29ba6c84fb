"""How the gateway is to treat an endpoint's requests, as both the control plane and the gateway know it."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

HOLD_S_MAX = 600.0


class Affinity(StrEnum):
    """Which requests go to one replica while it is not loaded much above the mean.

    `session`: those of one `prompt_cache_key`, else of one `user`. `prefix`: also those that begin alike.
    """

    OFF = "off"
    SESSION = "session"
    PREFIX = "prefix"


class GatewayOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """`hold_s` None: the server's own, for replicas that start within it; 0: requests are not held.

    `public`: the endpoint is shown by `/public/v1/models`, without a key.
    """

    hold_s: float | None = None
    affinity: Affinity = Affinity.OFF
    public: bool = False


DEFAULT_OPTIONS = GatewayOptions()


def options_document(options: GatewayOptions) -> dict[str, object]:
    """As a JSON column keeps it: only what is not the default."""
    document: dict[str, object] = msgspec.to_builtins(options)
    return document


def read_options(document: Mapping[str, object]) -> GatewayOptions:
    """The reverse of `options_document`."""
    return msgspec.convert(document, GatewayOptions)


def hold_of(options: GatewayOptions, start_s: float, default_s: float) -> float:
    """The longest hold of an endpoint whose replicas take `start_s` to start (0: never seen).

    >>> hold_of(GatewayOptions(), start_s=3.0, default_s=50.0)
    50.0
    >>> hold_of(GatewayOptions(), start_s=90.0, default_s=50.0)
    0.0
    >>> hold_of(GatewayOptions(hold_s=100.0), start_s=90.0, default_s=50.0)
    100.0
    """
    if options.hold_s is not None:
        return options.hold_s
    return default_s if 0 < start_s <= default_s else 0.0
