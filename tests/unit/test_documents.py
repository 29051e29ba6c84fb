"""Documents say what is so: figures come from result files, settings and errors are all described."""

import json
import re
from pathlib import Path

import pytest
from benchmarks.harness import RESULTS
from benchmarks.tables import DOCUMENTS, _number, rendered
from pydantic.fields import FieldInfo

from weighbridge.registry.model import SyncStatus
from weighbridge.replicas.model import ReplicaState
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_of_figures_are_those_of_the_result_files(document: Path) -> None:
    text = document.read_text()
    assert rendered(text) == text, "run: python -m benchmarks.tables"


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    missing = [
        f"| `WEIGHBRIDGE_{name.upper()}` | {shown} |"
        for name, field in Settings.model_fields.items()
        if (shown := _shown(field)) is not None
        and f"| `WEIGHBRIDGE_{name.upper()}` | {shown} |" not in text
    ]
    assert missing == []
    assert "| `WEIGHBRIDGE_DATA_DIR` |" in text


SIZE = re.compile(
    r"^\| [^|]+ \| ([0-9.]+) ?[^|]* \| `(\w+)\.json`: ([^|]+): ([^|:]+) \|", re.MULTILINE
)


def test_what_sizes_are_derived_from_is_what_was_measured() -> None:
    rows = SIZE.findall((ROOT / "docs" / "operating" / "growing.md").read_text())
    assert len(rows) == 11
    for shown, name, candidate, figure in rows:
        result = json.loads((RESULTS / f"{name}.json").read_text())
        medians = {one["name"]: one["medians"] for one in result["candidates"]}[candidate]
        assert shown == _number(medians[figure]), (name, candidate, figure)


CONFLICT = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
)


@pytest.mark.parametrize("document", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_is_merged_to_its_end(document: Path) -> None:
    assert not CONFLICT.search(document.read_text())


LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target, heading in LINK.findall(document.read_text()):
        path = document.parent / target if target else document
        assert path.exists(), target
        if heading and path.suffix == ".md":
            assert heading[1:] in _headings(path), f"{target}{heading}"


def _headings(path: Path) -> set[str]:
    """As their anchors are made: small letters, blanks as hyphens, no other signs."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_state_and_noun_of_a_state_machine_is_a_concept() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text()
    states = {*ReplicaState, *RolloutStatus, *SyncStatus}
    assert {state for state in states if not re.search(rf"\b{state}\b", text)} == set()


def _shown(field: FieldInfo) -> str | None:
    """The default as the table shows it; None for one that depends on the user."""
    if field.default_factory is not None:
        return None
    return "" if field.default is None else f"`{field.default}`"
