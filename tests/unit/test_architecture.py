"""House laws that no linter knows: sizes, and where time and chance may be read."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "weighbridge"
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
PACKAGE_FILES_MAX = 10
MODULES = sorted(path for path in SOURCE.rglob("*.py") if "migrations" not in path.parts)
PROGRAMS = sorted(
    path for name in ("simulation", "benchmarks") for path in (ROOT / name).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PURE_FILES = ("model.py", "plan.py", "balance.py")
IMPURE = {"now", "utcnow", "time", "monotonic", "uuid4", "random", "token_urlsafe", "urandom"}


def _name(path: Path) -> str:
    return str(path.relative_to(SOURCE if path.is_relative_to(SOURCE) else ROOT))


@pytest.mark.parametrize("path", MODULES + PROGRAMS, ids=_name)
def test_a_module_says_what_it_holds_and_stays_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES_MAX
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module starts with one sentence that says what it holds"
    long = [
        f"{function.name} has {length} lines"
        for function in _functions(tree)
        if (length := _length(function)) > FUNCTION_LINES_MAX
    ]
    assert not long


def test_a_file_of_the_tests_stays_small() -> None:
    lengths = {_name(path): len(path.read_text().splitlines()) for path in TESTS}
    assert {name: length for name, length in lengths.items() if length > FILE_LINES_MAX} == {}


def test_a_package_has_at_most_ten_files() -> None:
    """So has a folder of tests, besides the fixtures that it shares."""
    counts = Counter(
        _name(path.parent)
        for path in MODULES + PROGRAMS + TESTS
        if path.name not in ("__init__.py", "conftest.py")
    )
    assert {name: count for name, count in counts.items() if count > PACKAGE_FILES_MAX} == {}


@pytest.mark.parametrize("path", [path for path in MODULES if path.name in PURE_FILES], ids=_name)
def test_decisions_read_neither_clock_nor_chance(path: Path) -> None:
    calls = {
        node.func.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not calls & IMPURE


def test_test_files_have_names_of_their_own() -> None:
    """They are not packages, so two of one name cannot be collected in one run."""
    names = Counter(path.name for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_only_the_serve_commands_know_the_server() -> None:
    """The CLI talks to a server through weighbridge.sdk; cli/serve.py alone starts one."""
    knows = [
        _name(path)
        for path in (SOURCE / "cli").glob("*.py")
        if path.name != "serve.py" and "weighbridge.server" in path.read_text()
    ]
    assert knows == []


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1
