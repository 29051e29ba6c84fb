"""Bugs for the planners, and a Python in which one is planted: `python -m simulation.planting BUG MODULE …`."""

import runpy
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType

PRODUCT = Path(__file__).parents[1] / "src" / "weighbridge"
CATALOGUE = Path(__file__).with_name("planted.toml")


@dataclass(frozen=True, slots=True)
class Bug:
    """`old` is replaced by `new` in `file`, below src/weighbridge; `breaks` says which rule, and how."""

    name: str
    file: str
    breaks: str
    old: str
    new: str

    @property
    def path(self) -> Path:
        return PRODUCT / self.file

    @property
    def module(self) -> str:
        return ".".join(("weighbridge", *Path(self.file).with_suffix("").parts))


def bugs() -> Sequence[Bug]:
    return [Bug(**entry) for entry in tomllib.loads(CATALOGUE.read_text())["bug"]]


def misplaced() -> Iterator[str]:
    """Bugs whose place is not found any more, or found more than once."""
    for bug in bugs():
        found = bug.path.read_text().count(bug.old)
        if found != 1:
            yield f"{bug.name}: {found} places in {bug.file}"


class _Loader(SourceFileLoader):
    """Reads a module with the bug in it; its compiled form is not kept."""

    def __init__(self, bug: Bug) -> None:
        super().__init__(bug.module, str(bug.path))
        self._bug = bug

    def get_code(self, fullname: str) -> CodeType:
        source = self._bug.path.read_text().replace(self._bug.old, self._bug.new)
        code: CodeType = self.source_to_code(source, str(self._bug.path))
        return code


class Planter(MetaPathFinder):
    """Finds one module of the product, and every other where it always is; before any of the product is imported."""

    def __init__(self, bug: Bug) -> None:
        self._bug = bug

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != self._bug.module:
            return None
        return spec_from_file_location(fullname, self._bug.path, loader=_Loader(self._bug))


def pytest_configure() -> None:
    """As a plugin of pytest: property tests try the same examples each time, and show a failure as it was found."""
    from hypothesis import Phase, settings  # noqa: PLC0415 - pytest has to be there first, to rewrite its asserts

    phases = [Phase.explicit, Phase.generate]
    settings.register_profile("planted", phases=phases, derandomize=True, database=None)
    settings.load_profile("planted")


def main(words: list[str]) -> None:
    """Run a module as a program, with a bug planted."""
    name, module, *rest = words
    (bug,) = (one for one in bugs() if one.name == name)
    sys.meta_path.insert(0, Planter(bug))
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
