"""An endpoint's own limits of the gate on the wire: what a change sets, and how they are shown."""

from typing import Annotated, Self

import msgspec
from pydantic import Field

from weighbridge.api.admin.router import Body
from weighbridge.api.answers import Answer
from weighbridge.endpoints.gate import GateOptions
from weighbridge.rollouts.reconciler import GATE_ROWS_MAX

RATIO_MAX = 1_000_000.0
TIME_S_MAX = 3_600.0

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0, le=RATIO_MAX, allow_inf_nan=False)]

_REQUESTS = "Requests before a new version is judged by its answers; 0: it never is."
_ERRORS = "Share of 5xx from which a new version goes back …"
_ERRORS_RATIO = "… if it is this many times the share of the version before."
_EMPTY = "As `errors_share`, of answers without a token."
_EMPTY_RATIO = "As `errors_ratio`, of answers without a token."
_TTFT_MIN = "A time to first token (95th percentile) that is never too long."
_TTFT_RATIO = "In times of the version before, what is too long."
_TTFT_MAX = "What is too long where no version is there to compare with."


class GateChange(Body):
    """A member that is left out stays as it is; null: the server's own from now on."""

    requests_min: Annotated[int, Field(ge=0, le=GATE_ROWS_MAX)] | None = Field(
        default=None, description=_REQUESTS
    )
    errors_share: Share | None = Field(default=None, description=_ERRORS)
    errors_ratio: Ratio | None = Field(default=None, description=_ERRORS_RATIO)
    empty_share: Share | None = Field(default=None, description=_EMPTY)
    empty_ratio: Ratio | None = Field(default=None, description=_EMPTY_RATIO)
    ttft_min_s: Annotated[float, Field(ge=0, le=TIME_S_MAX, allow_inf_nan=False)] | None = Field(
        default=None, description=_TTFT_MIN
    )
    ttft_ratio: Annotated[float, Field(ge=1, le=RATIO_MAX, allow_inf_nan=False)] | None = Field(
        default=None, description=_TTFT_RATIO
    )
    ttft_max_s: Annotated[float, Field(gt=0, le=TIME_S_MAX, allow_inf_nan=False)] | None = Field(
        default=None, description=_TTFT_MAX
    )

    def __call__(self, options: GateOptions) -> GateOptions:
        changes = {name: getattr(self, name) for name in self.model_fields_set}
        return msgspec.structs.replace(options, **changes)


class GateAnswer(Answer):
    """null: the server's own."""

    requests_min: int | None = Field(description=_REQUESTS)
    errors_share: float | None = Field(description=_ERRORS)
    errors_ratio: float | None = Field(description=_ERRORS_RATIO)
    empty_share: float | None = Field(description=_EMPTY)
    empty_ratio: float | None = Field(description=_EMPTY_RATIO)
    ttft_min_s: float | None = Field(description=_TTFT_MIN)
    ttft_ratio: float | None = Field(description=_TTFT_RATIO)
    ttft_max_s: float | None = Field(description=_TTFT_MAX)

    @classmethod
    def of(cls, options: GateOptions) -> Self:
        return cls(**msgspec.structs.asdict(options))
