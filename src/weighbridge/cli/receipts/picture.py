"""A receipt's timeline drawn: in the terminal with letters, and as an SVG file."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

from rich.text import Text

from weighbridge.cli.receipts.timeline import PHASES, Lane, Timeline

WIDTH = 72
_STYLES = ("green", "cyan", "yellow", "magenta")
LANES_MAX = 200

SVG_WIDTH = 960
_LEFT, _RIGHT, _TOP, _LANE = 170, 24, 140, 22
_FILLS = ("#2f9e69", "#4a7fd6", "#c98a1b", "#a45bbf")
_SHADES: Mapping[str, float] = {
    "pending": 0.12,
    "starting": 0.3,
    "warming": 0.45,
    "ready": 0.65,
    "routed": 1.0,
    "draining": 0.4,
    "stopping": 0.15,
    "failing": 0.15,
}


def terminal_picture(time: Timeline, target: int | None) -> Text:
    """One line per replica, coloured by version, under the line of routable replicas."""
    step_s = time.length_s / WIDTH
    text = Text(no_wrap=True)
    text.append(f"{'routable':<20}", "bold")
    for column in range(WIDTH):
        count = time.routable_lowest(column * step_s, (column + 1) * step_s)
        text.append(" " if count is None else "+" if count > 9 else str(count))
    versions = _versions(time, target)
    used: set[str] = set()
    for lane in time.lanes[:LANES_MAX]:
        style = _STYLES[versions.index(lane.version) % len(_STYLES)]
        text.append(f"\n{lane.replica_id:<13} {'v' + str(lane.version):<6}", style)
        for column in range(WIDTH):
            letter = _letter(lane, column * step_s, (column + 1) * step_s)
            used.add(letter)
            text.append(letter, style)
        if lane.end and lane.end != "stopped":
            text.append(f" {lane.end}", "red")
    if len(time.lanes) > LANES_MAX:
        text.append(f"\n… and {len(time.lanes) - LANES_MAX} more")
    text.append(f"\n{'':<20}{_axis(time.length_s)}", "dim")
    legend = [f"{letter} {words}" for letter, words in PHASES.values() if letter in used]
    text.append(f"\n{'':<20}{'   '.join(legend)}", "dim")
    return text


def _versions(time: Timeline, target: int | None) -> Sequence[int]:
    """The target first, so that it has the first colour."""
    others = sorted({lane.version for lane in time.lanes} - {target}, reverse=True)
    return [*([] if target is None else [target]), *others]


def _letter(lane: Lane, begin_s: float, end_s: float) -> str:
    """The phase that takes most of a column; a short one is not lost to a blank."""
    shares = [
        (min(span.end_s, end_s) - max(span.begin_s, begin_s), span.phase)
        for span in lane.spans
        if span.begin_s < end_s and (span.end_s > begin_s or span.begin_s == span.end_s >= begin_s)
    ]
    return PHASES[max(shares)[1]][0] if shares else " "


def _axis(length_s: float) -> str:
    left, right = "0 s", _seconds(length_s)
    return left + " " * max(1, WIDTH - len(left) - len(right)) + right


def _seconds(length_s: float) -> str:
    return f"{length_s:.1f} s" if length_s < 100 else f"{length_s:.0f} s"


def svg_picture(time: Timeline, title: str, subtitle: str, target: int | None) -> str:
    """A picture for a report; it needs nothing but itself."""
    lanes = time.lanes[:LANES_MAX]
    bottom = _TOP + _LANE * len(lanes)
    height = bottom + 74
    scale = (SVG_WIDTH - _LEFT - _RIGHT) / max(time.length_s, 0.001)
    versions = _versions(time, target)

    def x(at_s: float) -> float:
        return round(_LEFT + at_s * scale, 1)

    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SVG_WIDTH} {height}" width="{SVG_WIDTH}" '
        f'height="{height}" font-family="ui-sans-serif, system-ui, sans-serif" font-size="12">'
    )
    parts = [
        head,
        f'<rect width="{SVG_WIDTH}" height="{height}" fill="#fbfbf9"/>',
        f'<text x="24" y="30" font-size="16" font-weight="600" fill="#1c1c1a">{escape(title)}</text>',
        f'<text x="24" y="50" fill="#6b6b66">{escape(subtitle)}</text>',
        *_steps(time, x),
        *_rules(time, x, bottom),
    ]
    for row, lane in enumerate(lanes):
        fill = _FILLS[versions.index(lane.version) % len(_FILLS)]
        parts += _lane(lane, _TOP + row * _LANE, fill, x)
    parts += _ticks(time.length_s, x, bottom)
    parts += _legend(versions, target, height - 18)
    return "\n".join([*parts, "</svg>", ""])


def _steps(time: Timeline, x: Callable[[float], float]) -> list[str]:
    """The number of routable replicas over time."""
    most = max((count for _, count in time.routable), default=0) or 1
    base, high = _TOP - 18, 40

    def y(count: int) -> float:
        return round(base - high * count / most, 1)

    points: list[str] = []
    for (at_s, count), (next_s, _) in zip(
        time.routable, [*time.routable[1:], (time.length_s, 0)], strict=False
    ):
        points += [f"{x(at_s)},{y(count)}", f"{x(next_s)},{y(count)}"]
    if not points:
        return []
    lowest = time.routable_lowest(time.started_s or 0.0, time.ended_s or time.length_s)
    words = f"routable (lowest {lowest})"
    return [
        f'<text x="24" y="{base - 14}" fill="#1c1c1a">{words}</text>',
        f'<line x1="{_LEFT}" x2="{SVG_WIDTH - _RIGHT}" y1="{base}" y2="{base}" stroke="#d9d9d4"/>',
        f'<text x="{_LEFT - 8}" y="{y(most) + 4}" text-anchor="end" fill="#6b6b66">{most}</text>',
        f'<text x="{_LEFT - 8}" y="{base + 4}" text-anchor="end" fill="#6b6b66">0</text>',
        f'<polyline points="{" ".join(points)}" fill="none" stroke="#1c1c1a" stroke-width="1.6"/>',
    ]


def _rules(time: Timeline, x: Callable[[float], float], bottom: int) -> list[str]:
    """When the rollout started and ended."""
    parts = []
    for name, at_s in (("started", time.started_s), ("ended", time.ended_s)):
        if at_s is not None:
            end = "end" if x(at_s) > SVG_WIDTH / 2 else "start"
            parts += [
                f'<line x1="{x(at_s)}" x2="{x(at_s)}" y1="78" y2="{bottom}" stroke="#b9b9b3"/>',
                f'<text x="{x(at_s)}" y="74" text-anchor="{end}" fill="#6b6b66">{name}</text>',
            ]
    return parts


def _lane(lane: Lane, top: int, fill: str, x: Callable[[float], float]) -> list[str]:
    middle = top + _LANE - 8
    parts = [
        f'<text x="24" y="{middle}" fill="#1c1c1a">{escape(lane.replica_id)}</text>',
        f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end" fill="{fill}">v{lane.version}</text>',
    ]
    for span in lane.spans:
        width = max(0.6, round(x(span.end_s) - x(span.begin_s), 1))
        shade = _SHADES.get(span.phase, 0.2)
        words = (
            f"{PHASES.get(span.phase, ('', span.phase))[1]}: {_seconds(span.end_s - span.begin_s)}"
        )
        parts.append(
            f'<rect x="{x(span.begin_s)}" y="{top + 3}" width="{width}" height="{_LANE - 6}" fill="{fill}" '
            f'fill-opacity="{shade}"><title>{escape(words)}</title></rect>'
        )
    if lane.end in {"failed", "lost"}:
        at = x(lane.end_s)
        parts.append(
            f'<text x="{at + 4}" y="{middle}" fill="#c0392b" font-weight="600">{lane.end}</text>'
        )
    return parts


def _ticks(length_s: float, x: Callable[[float], float], bottom: int) -> list[str]:
    return [
        f'<text x="{x(length_s * part / 4)}" y="{bottom + 18}" text-anchor="middle" fill="#6b6b66">'
        f"{_seconds(length_s * part / 4)}</text>"
        for part in range(5)
    ]


def _legend(versions: Sequence[int], target: int | None, y: int) -> list[str]:
    parts, left = [], 24
    for place, version in enumerate(versions):
        fill = _FILLS[place % len(_FILLS)]
        words = f"version {version}{' (target)' if version == target else ''}"
        parts.append(f'<rect x="{left}" y="{y - 10}" width="12" height="12" fill="{fill}"/>')
        parts.append(f'<text x="{left + 18}" y="{y}" fill="#1c1c1a">{words}</text>')
        left += 40 + 7 * len(words)
    for phase in ("starting", "ready", "routed", "draining"):
        words = PHASES[phase][1]
        parts.append(
            f'<rect x="{left}" y="{y - 10}" width="12" height="12" fill="#1c1c1a" '
            f'fill-opacity="{_SHADES[phase]}"/>'
        )
        parts.append(f'<text x="{left + 18}" y="{y}" fill="#6b6b66">{words}</text>')
        left += 34 + 6 * len(words)
    return parts
