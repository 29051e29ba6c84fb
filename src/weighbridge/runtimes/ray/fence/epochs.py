"""The highest lease epoch under which anybody has led a namespace of a cluster, kept by the cluster's head.

Each control process has a driver of its own, so no driver could know of another's controller by itself. There
is one key for each epoch, so that no write can lower what another has raised.
"""

from typing import Any, Protocol

from ray.experimental import internal_kv

from weighbridge.errors import UnavailableError

# Any: a library without types; its answers are bytes and lists of them.
_KV: Any = internal_kv
KV_NAMESPACE = "weighbridge"


class KeyValues(Protocol):
    def put(self, key: str) -> None: ...

    def delete(self, key: str) -> None: ...

    def keys(self, prefix: str) -> list[str]: ...


class HeadKeyValues:
    """Ray's own store; every call blocks for as long as the head is away."""

    def put(self, key: str) -> None:
        _KV._internal_kv_put(key, b"", overwrite=False, namespace=KV_NAMESPACE)  # noqa: SLF001 - it has no public name

    def delete(self, key: str) -> None:
        _KV._internal_kv_del(key, namespace=KV_NAMESPACE)  # noqa: SLF001 - it has no public name

    def keys(self, prefix: str) -> list[str]:
        found = _KV._internal_kv_list(prefix, namespace=KV_NAMESPACE)  # noqa: SLF001 - it has no public name
        return [key.decode() for key in found]


def raise_epoch(values: KeyValues, namespace: str, epoch: int) -> int:
    """Note that somebody leads under this epoch; the highest that is known afterwards."""
    known = _epochs(values, namespace)
    if epoch not in known:
        values.put(_key(namespace, epoch))
        known = _epochs(values, namespace) | {epoch}
    highest = max(known)
    if highest == epoch:
        for lower in known - {epoch}:
            values.delete(_key(namespace, lower))
    return highest


def check_epoch(values: KeyValues, namespace: str, epoch: int) -> None:
    """Raises UnavailableError for an epoch that a higher one has followed; 0 leads nobody, and passes."""
    highest = max(_epochs(values, namespace), default=0)
    if 0 < epoch < highest:
        raise followed(namespace, epoch, highest)


def followed(namespace: str, epoch: int, highest: int) -> UnavailableError:
    return UnavailableError(
        f"A controller of epoch {highest} leads in the Ray namespace {namespace!r}; this one's is {epoch}. "
        "Where this is another installation, or its database was made anew, it needs a namespace of its "
        "own: WEIGHBRIDGE_RAY_NAMESPACE.",
        code="followed",
    )


def _epochs(values: KeyValues, namespace: str) -> set[int]:
    prefix = _prefix(namespace)
    return {int(key.removeprefix(prefix)) for key in values.keys(prefix)}


def _key(namespace: str, epoch: int) -> str:
    return f"{_prefix(namespace)}{epoch}"


def _prefix(namespace: str) -> str:
    return f"epoch:{namespace}:"
