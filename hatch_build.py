"""Compiles the gateway's data path into a wheel that is built with WEIGHBRIDGE_COMPILE=1.

The modules stay plain Python, without types or words of the compiler: such a wheel has each of them as source and
compiled, and Python takes the compiled one. Why: docs/decisions/0008-compiled-gateway.md.
"""

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WANTED = os.environ.get("WEIGHBRIDGE_COMPILE", "") == "1"
EXTRA = "compile"
"""What it takes, as an extra of the project."""
LENIENT = ["--config-file=", "--follow-imports=silent", "--ignore-missing-imports"]
"""`make check` is what holds the types; here they only serve the compiler."""


class CompileHook(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return self.metadata.core.optional_dependencies[EXTRA] if WANTED else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not WANTED:
            return
        if version == "editable":
            self.app.display_warning(
                "WEIGHBRIDGE_COMPILE: an editable install stays plain Python; leave out --editable"
            )
            return
        build_data["force_include"] |= _compiled(self.config["modules"])
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _compiled(modules: list[str]) -> dict[str, str]:
    """Each library's place in the wheel, by its own. What is in `build/` and has not changed is not made again: pip
    asks twice, once for the metadata alone.
    """
    from mypyc.build import mypycify  # noqa: PLC0415 - there for this build alone
    from setuptools import Distribution  # noqa: PLC0415

    paths = [f"src/{module.replace('.', '/')}.py" for module in modules]
    extensions = mypycify(
        [*LENIENT, *paths], only_compile_paths=paths, target_dir="build/mypyc", multi_file=True
    )
    command = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
    command.parallel = os.cpu_count() or 1
    command.ensure_finalized()
    command.run()
    return {path: str(Path(path).relative_to(command.build_lib)) for path in command.get_outputs()}
