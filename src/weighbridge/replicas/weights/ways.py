"""What a runtime is told of a version's weights: where they lie, or where its nodes pull them from."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from weighbridge.runtimes.base import Weights
from weighbridge.settings import Settings
from weighbridge.weights.node.source import WeightSource
from weighbridge.weights.served.address import weights_url
from weighbridge.weights.served.tokens import token_expiry_s, weights_token

WeightsOf = Callable[[str, int], Weights]
"""By manifest digest and size; blocking. NotFoundError when the version is not published (W1)."""


class VersionStore(Protocol):
    """The part of the weight store that a launch needs; blocking."""

    def version_dir(self, digest: str) -> Path:
        """The directory an engine loads; NotFoundError when the version is not published (W1)."""


def on_path(store: VersionStore) -> WeightsOf:
    """Every node has the weight store, or this one's cache of it, at the same path."""

    def found(digest: str, size_bytes: int) -> Weights:
        return Weights(digest, str(store.version_dir(digest)), size_bytes)

    return found


def pulled(
    require: Callable[[str], object], source_of: Callable[[str, int], WeightSource]
) -> WeightsOf:
    """Nodes pull what they do not have. `require` raises NotFoundError when a version is not published."""

    def found(digest: str, size_bytes: int) -> Weights:
        require(digest)
        return Weights(digest, "", size_bytes, source_of(digest, size_bytes))

    return found


def sources(
    settings: Settings, pepper: bytes, wall_s: Callable[[], float]
) -> Callable[[str, int], WeightSource]:
    """From the bucket where the weight store is in one, else from the weight server with a token for the version."""
    url = settings.store_url or weights_url(settings)
    secret = settings.node_store_secret_access_key

    def source(digest: str, size_bytes: int) -> WeightSource:
        token = ""
        if settings.store_url is None:
            token = weights_token(pepper, digest, token_expiry_s(wall_s(), size_bytes))
        return WeightSource(
            url=url,
            token=token,
            endpoint_url=settings.store_endpoint_url,
            region=settings.store_region,
            access_key_id=settings.node_store_access_key_id,
            secret_access_key=None if secret is None else secret.get_secret_value(),
            cache_bytes_max=settings.node_cache_bytes_max,
            free_min_share=settings.disk_free_min_share,
        )

    return source
