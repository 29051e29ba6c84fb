"""The answer of a deploy that was only tried on paper."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from weighbridge.sdk.fields import Fields


@dataclass(frozen=True, slots=True)
class ForecastStep:
    """`step` is start, route, drain, stop or adopt; `at_s` is None without history.

    `ready_replicas` is the lowest number until the next step, `slots` the replicas that hold a place.
    """

    step: str
    version_id: int
    replicas: int
    at_s: float | None
    ready_replicas: int
    slots: int


@dataclass(frozen=True, slots=True)
class ForecastShare:
    """A canary that stands: its part of the requests, its replicas and those of the version beside it."""

    traffic_percent: int
    replicas: int
    base_replicas: int


@dataclass(frozen=True, slots=True)
class ForecastWeights:
    """Whether the weight store has the version; disk that is needed and free on the server's machine."""

    present: bool
    size_bytes: int
    disk_needed_bytes: int
    disk_free_bytes: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a deploy would do. Times are None where the endpoint has no history; `message` says so.

    `weights` is None where the weight store could not be asked, `share` where it is no canary that stands.
    """

    endpoint_id: str
    version_id: int
    base_version_id: int | None
    queued_behind: int
    expected_status: str
    reason: str
    steps: tuple[ForecastStep, ...]
    complete: bool
    ready_replicas: int
    lowest_ready_replicas: int
    peak_slots: int
    hold_needed: bool
    gap_s: float | None
    starts_in_s: float | None
    takes_s: float | None
    message: str
    weights: ForecastWeights | None
    share: ForecastShare | None
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "Forecast":
        answer = Fields(body, "a forecast")
        times, weights = answer.part("times"), answer.part_or_none("weights")
        share = answer.part_or_none("share")
        return cls(
            endpoint_id=answer.text("endpoint_id"),
            version_id=answer.integer("version_id"),
            base_version_id=answer.integer_or_none("base_version_id"),
            queued_behind=answer.integer("queued_behind"),
            expected_status=answer.text("expected_status"),
            reason=answer.text("reason"),
            steps=tuple(_step(one) for one in answer.parts("steps", "a step")),
            complete=answer.flag("complete"),
            ready_replicas=answer.integer("ready_replicas"),
            lowest_ready_replicas=answer.integer("lowest_ready_replicas"),
            peak_slots=answer.integer("peak_slots"),
            hold_needed=answer.flag("hold_needed"),
            gap_s=answer.number_or_none("gap_s"),
            starts_in_s=times.number_or_none("starts_in_s"),
            takes_s=times.number_or_none("takes_s"),
            message=times.text("message"),
            weights=None
            if weights is None
            else ForecastWeights(
                present=weights.flag("present"),
                size_bytes=weights.integer("size_bytes"),
                disk_needed_bytes=weights.integer("disk_needed_bytes"),
                disk_free_bytes=weights.integer("disk_free_bytes"),
            ),
            share=None
            if share is None
            else ForecastShare(
                traffic_percent=share.integer("traffic_percent"),
                replicas=share.integer("replicas"),
                base_replicas=share.integer("base_replicas"),
            ),
            raw=answer.raw,
        )


def _step(body: Fields) -> ForecastStep:
    return ForecastStep(
        step=body.text("step"),
        version_id=body.integer("version_id"),
        replicas=body.integer("replicas"),
        at_s=body.number_or_none("at_s"),
        ready_replicas=body.integer("ready_replicas"),
        slots=body.integer("slots"),
    )
