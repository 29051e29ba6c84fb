"""Tables in README and docs, generated from results/*.json between `<!-- bench:NAME -->` and `<!-- /bench -->`."""

import json
import re
from pathlib import Path

from benchmarks.harness import RESULTS

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARK = re.compile(r"(<!-- bench:([a-z_]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def table(name: str) -> str:
    """The Markdown table of one result: a row per candidate, a column per figure, medians."""
    result = json.loads((RESULTS / f"{name}.json").read_text())
    figures = list(result["candidates"][0]["medians"])
    titles = [figure.replace("_", " ") for figure in figures]
    rows = [
        "| " + " | ".join([one["name"], *(_number(one["medians"][f]) for f in figures)]) + " |"
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
            "",
            source,
            "",
        ]
    )


def rendered(text: str) -> str:
    return MARK.sub(lambda found: f"{found[1]}{table(found[2])}{found[3]}", text)


def main() -> None:
    for document in DOCUMENTS:
        text = document.read_text()
        document.write_text(rendered(text))


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
