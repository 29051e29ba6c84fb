"""An endpoint's gateway options on the wire: what a change sets, and how they are shown."""

from typing import Annotated, Self

import msgspec
from pydantic import Field

from weighbridge.api.admin.router import Body
from weighbridge.api.answers import Answer
from weighbridge.routing.options import HOLD_S_MAX, Affinity, GatewayOptions

_HOLD = (
    "How many seconds a request may wait while no replica is ready; 0: not at all. "
    "null: the server's own, unless replicas take longer to start."
)
_AFFINITY = (
    "`session`: requests of one `prompt_cache_key` (else `user`) go to the same replica while its load allows; "
    "`prefix`: also those whose prompts begin alike."
)
_PUBLIC = "Shown by `/public/v1/models`, without a key."


class GatewayChange(Body):
    """A member that is left out stays as it is."""

    hold_s: Annotated[float, Field(ge=0, le=HOLD_S_MAX)] | None = Field(
        default=None, description=_HOLD
    )
    affinity: Affinity = Field(default=Affinity.OFF, strict=False, description=_AFFINITY)
    public: bool = Field(default=False, description=_PUBLIC)

    def __call__(self, options: GatewayOptions) -> GatewayOptions:
        changes = {name: getattr(self, name) for name in self.model_fields_set}
        return msgspec.structs.replace(options, **changes)


class GatewayAnswer(Answer):
    hold_s: float | None = Field(description=_HOLD)
    affinity: Affinity = Field(description=_AFFINITY)
    public: bool = Field(description=_PUBLIC)

    @classmethod
    def of(cls, options: GatewayOptions) -> Self:
        return cls(**msgspec.structs.asdict(options))
