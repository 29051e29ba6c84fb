"""Tables in README and docs, generated from results/*.json between `<!-- bench:NAME -->` and `<!-- /bench -->`."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
MARK = re.compile(r"(<!-- bench:([a-z_]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def table(name: str) -> str:
    """The Markdown table of one result: a row per candidate, a column per figure, medians; then its facts."""
    result = json.loads((RESULTS / f"{name}.json").read_text())
    figures = list(
        dict.fromkeys(figure for one in result["candidates"] for figure in one["medians"])
    )
    titles = [figure.replace("_", " ") for figure in figures]
    rows = [
        "| " + " | ".join([one["name"], *(_cell(one["medians"], f) for f in figures)]) + " |"
        for one in result["candidates"]
    ]
    runs = len(next(iter(result["candidates"][0]["samples"].values())))
    about = result["conditions"]
    source = (
        f"*Medians of {runs}; `{result['command']}`; {about['cores']} cores ({about['cpu']}), "
        f"load {about['load_average_1m']} at the end, {about['date']}.*"
    )
    return "\n".join(
        [
            f"| {result['title']} | " + " | ".join(titles) + " |",
            "|---|" + "---:|" * len(figures),
            *rows,
            *_facts(result.get("facts", ())),
            "",
            source,
            "",
        ]
    )


def _facts(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    if not facts:
        return []
    rows = [
        f"| {one['name']} | {_number(one['median'])} {one['unit']} | {one['goal']} |"
        for one in facts
    ]
    return ["", "| measured in the same run | | goal |", "|---|---:|---|", *rows]


def _cell(medians: Mapping[str, float], figure: str) -> str:
    return _number(medians[figure]) if figure in medians else "–"


def rendered(text: str) -> str:
    """Each marked table as measured last; what was never measured stays as it is."""
    return MARK.sub(
        lambda found: f"{found[1]}{table(found[2])}{found[3]}" if _measured(found[2]) else found[0],
        text,
    )


def _measured(name: str) -> bool:
    return (RESULTS / f"{name}.json").exists()


def main() -> None:
    for document in DOCUMENTS:
        text = document.read_text()
        document.write_text(rendered(text))


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
