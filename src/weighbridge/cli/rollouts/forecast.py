"""How a forecast is printed: the facts that decide, then the steps."""

from rich.console import Group, RenderableType
from rich.text import Text

from weighbridge.cli.output import facts, quantity, table
from weighbridge.cli.rollouts.live import elapsed
from weighbridge.sdk import Forecast, ForecastShare, ForecastStep, ForecastWeights

STEPS_SHOWN = 40


def forecast_view(forecast: Forecast) -> RenderableType:
    steps = forecast.steps[:STEPS_SHOWN]
    rows = [
        (
            "-" if step.at_s is None else elapsed(step.at_s),
            _sentence(step),
            step.ready_replicas,
            step.slots,
        )
        for step in steps
    ]
    parts: list[RenderableType] = [
        facts(_facts(forecast)),
        Text(),
        table(("AT", "STEP", "READY", "PLACES"), rows),
    ]
    if len(forecast.steps) > len(steps):
        parts.append(Text(f"and {len(forecast.steps) - len(steps)} more; --json has them"))
    return Group(*parts)


def _facts(forecast: Forecast) -> dict[str, object]:
    base = forecast.base_version_id
    behind = forecast.queued_behind
    weights = forecast.weights
    return {
        "endpoint": forecast.endpoint_id,
        "version": forecast.version_id if base is None else f"{base} → {forecast.version_id}",
        "expected": forecast.expected_status
        if forecast.expected_status == "done"
        else f"{forecast.expected_status}: {forecast.reason}",
        "share": None if forecast.share is None else _share(forecast.share),
        "queued behind": f"{behind} deployment{'s' if behind > 1 else ''}" if behind else None,
        "time": forecast.message,
        "ready replicas": f"{forecast.ready_replicas} now, never below {forecast.lowest_ready_replicas}",
        "places": f"{forecast.peak_slots} at most",
        "hold": _hold(forecast),
        "weights": None if weights is None else _weights(weights),
        "disk": None
        if weights is None
        else f"needs {quantity(weights.disk_needed_bytes)} of {quantity(weights.disk_free_bytes)} free",
    }


def _share(share: ForecastShare) -> str:
    return (
        f"{share.traffic_percent} % of requests, {share.replicas} of "
        f"{share.replicas + share.base_replicas} replicas"
    )


def _weights(weights: ForecastWeights) -> str:
    where = "in the store" if weights.present else "NOT in the store: upload them again"
    return f"{quantity(weights.size_bytes)}, {where}"


def _hold(forecast: Forecast) -> str:
    if not forecast.hold_needed:
        return "not needed"
    gap = "" if forecast.gap_s is None else f" for about {forecast.gap_s:.0f} s"
    return f"needed: no replica is ready{gap}; requests wait at the gateway"


def _sentence(step: ForecastStep) -> str:
    words = {
        "start": "start {0}",
        "route": "send requests to {0}",
        "drain": "drain {0}",
        "stop": "{0} stopped",
        "adopt": "keep {0}",
    }
    many = f"{step.replicas} of version {step.version_id}"
    return words.get(step.step, f"{step.step} {{0}}").format(many)
