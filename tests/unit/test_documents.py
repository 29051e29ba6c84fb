"""Documents say what is so: figures come from result files, settings and errors are all described."""

from pathlib import Path

import pytest
from benchmarks.tables import DOCUMENTS, rendered

from weighbridge.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_of_figures_are_those_of_the_result_files(document: Path) -> None:
    text = document.read_text()
    assert rendered(text) == text, "run: python -m benchmarks.tables"


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    missing = [name for name in Settings.model_fields if f"WEIGHBRIDGE_{name.upper()}" not in text]
    assert missing == []
