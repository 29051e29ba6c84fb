"""The answer of a deploy that is only tried on paper, and how it is come by."""

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, Self

import structlog
from pydantic import Field

from weighbridge.api.answers import Answer, version_name
from weighbridge.api.deps import Management, Parts
from weighbridge.engines.base import EngineSettings
from weighbridge.engines.gguf.cache import DTYPES, converted_path
from weighbridge.errors import NotFoundError
from weighbridge.registry import service as registry
from weighbridge.registry.names import VersionName
from weighbridge.rollouts.forecast.ideal import course
from weighbridge.rollouts.forecast.model import Course, History, Step
from weighbridge.rollouts.forecast.service import Ground, ground
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.rollouts.reconciler import rollout_limits
from weighbridge.weights.base import WeightStore

log = structlog.get_logger()

STEPS_MAX = 500
NOT_STARTED = RolloutStatus.NOT_STARTED


class ForecastStep(Answer):
    step: str = Field(
        description="start, route (requests go there from now on), drain, stop, or adopt (runs already)."
    )
    version_id: int
    replicas: int
    at_s: float | None = Field(
        default=None, description="After the deployment's start; absent without history."
    )
    ready_replicas: int = Field(description="The lowest number until the next step.")
    slots: int = Field(description="Replicas that hold a place meanwhile.")

    @classmethod
    def of(cls, step: Step, *, timed: bool) -> Self:
        return cls(
            step=step.kind.value,
            version_id=step.version_number,
            replicas=step.count,
            at_s=round(step.at_s, 1) if timed else None,
            ready_replicas=step.routed,
            slots=step.slots,
        )


class ForecastTimes(Answer):
    """Medians of this endpoint's own replicas of the last week, and what follows from them."""

    history: bool = Field(description="Without it no time is told.")
    starts_in_s: float | None = Field(default=None, description="After those queued before it.")
    takes_s: float | None = None
    replica_start_s: float | None = None
    replica_route_s: float | None = None
    replica_drain_s: float | None = Field(default=None, description="Absent: none has drained yet.")
    samples: int = 0
    message: str

    @classmethod
    def of(cls, history: History, foreseen: Course) -> Self:
        if not history.known:
            words = "No history: no replica of this endpoint has become ready in the last week."
            return cls(history=False, message=words)
        pace = history.pace()
        total_s = foreseen.waits_s + foreseen.takes_s
        words = f"Done in about {total_s:.0f} s, if nothing fails and streams end as they did."
        if foreseen.share is not None:
            words = (
                f"Stands in about {total_s:.0f} s, and stays so until it is promoted or cancelled."
            )
        elif foreseen.status is NOT_STARTED:
            words = f"Nobody can tell yet: it {foreseen.reason}"
        elif not foreseen.complete:
            words = "Longer than could be foreseen; the times are those of the steps shown."
        return cls(
            history=True,
            starts_in_s=None if foreseen.status is NOT_STARTED else round(foreseen.waits_s, 1),
            takes_s=round(foreseen.takes_s, 1) if foreseen.complete else None,
            replica_start_s=round(pace.start_s, 1),
            replica_route_s=round(pace.route_s, 1),
            replica_drain_s=round(pace.drain_s, 1) if history.drains_s else None,
            samples=len(history.starts_s),
            message=words,
        )


class ForecastShare(Answer):
    """Of a canary, while it stands."""

    traffic_percent: int = Field(description="Of the requests that go to the new version.")
    replicas: int = Field(description="Ready on the new version.")
    base_replicas: int = Field(description="Ready on the version beside it.")


class ForecastWeights(Answer):
    size_bytes: int
    present: bool = Field(description="Whether the weight store has them, whole.")
    disk_needed_bytes: int = Field(
        description="What is still to be brought to, or converted on, this machine's disk, at most."
    )
    disk_free_bytes: int


class DeployForecast(Answer):
    dry_run: Literal[True] = True
    endpoint_id: str
    model: str
    version_id: int
    base_version_id: int | None = Field(default=None, description="What serves now.")
    queued_behind: int = Field(description="Deployments that end before it starts.")
    expected_status: str = Field(
        description="done, if nothing fails; in_progress for a canary that stands; not_started where one before it "
        "waits for somebody; see `reason`."
    )
    reason: str
    steps: list[ForecastStep]
    steps_left_out: int = Field(description="Beyond those shown.")
    complete: bool = Field(
        description="Whether the forecast reaches the end: of a canary, where it stands."
    )
    share: ForecastShare | None = Field(default=None, description="What a canary comes to.")
    ready_replicas: int = Field(description="Before its first step.")
    lowest_ready_replicas: int
    peak_slots: int
    hold_needed: bool = Field(
        description="Whether requests find no ready replica for a while and are held at the gateway."
    )
    gap_s: float | None = Field(default=None, description="For how long, with history.")
    times: ForecastTimes
    weights: ForecastWeights | None = Field(
        default=None, description="Absent where the weight store cannot be asked now."
    )

    @classmethod
    def of(
        cls,
        found: Ground,
        foreseen: Course,
        caller: Management,
        weights: ForecastWeights | None,
    ) -> Self:
        timed = found.history.known
        base = found.outlook.base
        shown = foreseen.steps[:STEPS_MAX]
        return cls(
            endpoint_id=found.outlook.endpoint.id,
            model=version_name(found.version, caller.org),
            version_id=found.version.number,
            base_version_id=None if base is None else base.version_number,
            queued_behind=found.ahead,
            expected_status=foreseen.status.value,
            reason=foreseen.reason,
            steps=[ForecastStep.of(step, timed=timed) for step in shown],
            steps_left_out=len(foreseen.steps) - len(shown),
            complete=foreseen.complete,
            share=None
            if foreseen.share is None
            else ForecastShare(
                traffic_percent=foreseen.share.traffic_percent,
                replicas=foreseen.share.replicas,
                base_replicas=foreseen.share.base_replicas,
            ),
            ready_replicas=foreseen.routed_before,
            lowest_ready_replicas=foreseen.routed_min,
            peak_slots=foreseen.slots_max,
            hold_needed=foreseen.hold_needed,
            gap_s=round(foreseen.gap_s, 1) if timed and foreseen.hold_needed else None,
            times=ForecastTimes.of(found.history, foreseen),
            weights=weights,
        )


async def forecast(
    control: Parts,
    caller: Management,
    endpoint_id: str,
    name: VersionName,
    *,
    traffic_percent: int | None = None,
) -> DeployForecast:
    """What a deploy would do; raises what it would raise. Changes nothing."""
    now = control.clock.now()
    settings = control.settings
    limits = rollout_limits(settings)
    with control.forecast_calls.turn(caller.org.id, control.clock.monotonic()):
        async with control.database.begin() as tx:
            found = await ground(
                tx,
                caller.org,
                endpoint_id,
                name,
                deployment_id=control.clock.new_uuid(),
                now=now,
                queue_max=settings.deployment_queue_max,
                limits=limits,
                traffic_percent=traffic_percent,
            )
            engine = (await registry.architecture(tx, found.version.arch_id)).engine
        if not found.history.known:
            # Nominal paces give the order of the steps; they must not run into a limit of real ones.
            limits = replace(limits, progress_s=limits.total_s, total_s=limits.total_s * 100)
        run = partial(course, found.outlook, found.history.pace(), now, limits)
        foreseen = await asyncio.to_thread(run)
        weights = await asyncio.to_thread(
            _weights,
            control.store,
            settings.paths.cache,
            engine,
            found.digest,
            found.version.bytes_total,
        )
    return DeployForecast.of(found, foreseen, caller, weights)


def _weights(
    store: WeightStore, cache_dir: Path, engine: EngineSettings, digest: str, size_bytes: int
) -> ForecastWeights | None:
    """None where the store cannot be asked now."""
    needed = 0
    if engine.engine == "llamacpp":
        dtype = engine.dtype or DTYPES[0]
        if not converted_path(digest, cache_dir, dtype).exists():
            needed = size_bytes * (2 if dtype == "float32" else 1)
    try:
        files = store.manifest(digest).files
        needed += sum(f.size_bytes for f in files if not store.blob_path(f.digest).exists())
        present, free_bytes = True, store.free_bytes()
    except NotFoundError:
        present, free_bytes = False, store.free_bytes()
        needed += size_bytes
    except OSError as error:
        log.warning("forecast.store_away", reason=str(error))
        return None
    return ForecastWeights(
        size_bytes=size_bytes,
        present=present,
        disk_needed_bytes=needed,
        disk_free_bytes=free_bytes,
    )
