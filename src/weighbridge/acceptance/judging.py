"""Patterns and schemas in a process of their own: a pattern can run for ever, and a process can be ended.

Run as `python -m weighbridge.acceptance.judging` it reads one document from stdin and writes one to stdout.
"""

import asyncio
import json
import re
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from weighbridge.acceptance.model import Checks, Failure

TIME_S = 10.0
"""For all answers of an exam together, the start of the process included."""
CPU_S = 8
MEMORY_BYTES = 2 * 1024**3
OUTPUT_BYTES_MAX = 1024 * 1024
SHOWN_CHARS = 120


@dataclass(frozen=True, slots=True)
class Case:
    """An answer's text with the checks that need this; without a text, only whether they can be used at all."""

    regex: str | None
    json_schema: Mapping[str, object] | None
    text: str | None

    @staticmethod
    def of(checks: Checks, text: str | None) -> "Case":
        return Case(checks.regex, checks.json_schema, text)

    @property
    def empty(self) -> bool:
        return self.regex is None and self.json_schema is None


async def judge(cases: Sequence[Case]) -> list[list[Failure]]:
    """The failures of each case. What takes too long, or too much memory, has failed."""
    if all(case.empty for case in cases):
        return [[] for _ in cases]
    document = json.dumps(
        [{"regex": c.regex, "json_schema": c.json_schema, "text": c.text} for c in cases]
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "weighbridge.acceptance.judging",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(TIME_S):
            output, _ = await process.communicate(document.encode())
    except TimeoutError:
        output = b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0 and len(output) <= OUTPUT_BYTES_MAX:
        return [[Failure(check, detail) for check, detail in case] for case in json.loads(output)]
    # Which of the cases it was is not known: none of those that need this has passed.
    words = f"could not be checked within {CPU_S} s of computing; make the pattern simpler"
    return [[] if case.empty else [Failure(_name(case), words)] for case in cases]


def _name(case: Case) -> str:
    return "regex" if case.regex is not None else "json_schema"


def main() -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    cases = json.loads(sys.stdin.buffer.read())
    json.dump([list(_judged(case)) for case in cases], sys.stdout)
    return 0


def _judged(case: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    regex, schema, text = case["regex"], case["json_schema"], case["text"]
    answer = text if isinstance(text, str) else None
    if isinstance(regex, str):
        yield from (("regex", words) for words in _regex(regex, answer))
    if isinstance(schema, dict):
        yield from (("json_schema", words) for words in _schema(schema, answer))


def _regex(pattern: str, text: str | None) -> Iterator[str]:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        yield f"{pattern!r} is not a pattern: {error}"
        return
    if text is not None and compiled.search(text) is None:
        yield f"expected {_cut(pattern)} to be found, got {_cut(text)}"


def _schema(schema: Mapping[str, object], text: str | None) -> Iterator[str]:
    # Here, not above: the control process never needs these, and they are slow to import.
    from jsonschema import Draft202012Validator  # noqa: PLC0415
    from jsonschema.exceptions import SchemaError, ValidationError  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415

    # An empty registry: nothing is fetched from anywhere.
    validator = Draft202012Validator(schema, registry=Registry())
    try:
        Draft202012Validator.check_schema(schema)
        _check_references(schema)
        _check_patterns(schema)
        validator.is_valid(None)
    except SchemaError as error:
        where = "/".join(str(part) for part in error.absolute_path) or "its top"
        yield f"the schema is not valid at {where}: {_plain(error.message)}"
        return
    except (ValueError, re.error) as error:
        yield f"the schema is not valid: {error}"
        return
    except RecursionError:
        yield "the schema is not valid: it refers to itself without end, or is nested too deep"
        return
    if text is None:
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        yield f"expected JSON, got {_cut(text)}: {error}"
        return
    try:
        first: ValidationError | None = next(iter(validator.iter_errors(value)), None)
    except RecursionError:
        yield f"expected JSON that can be checked, but it is nested too deep; got {_cut(text)}"
        return
    if first is not None:
        where = "/".join(str(part) for part in first.absolute_path) or "its top"
        yield f"at {where}: {_plain(first.message)}; got {_cut(text)}"


def _check_references(schema: Mapping[str, object]) -> None:
    """Raises ValueError for a reference that leads out of the schema or nowhere."""
    # Here for the same reason as above.
    from referencing import Registry, Resource  # noqa: PLC0415
    from referencing.exceptions import Unresolvable  # noqa: PLC0415
    from referencing.jsonschema import DRAFT202012  # noqa: PLC0415

    root: Resource[object] = DRAFT202012.create_resource(schema)
    empty: Registry[object] = Registry()
    left = [(root.contents, empty.resolver_with_root(root))]
    while left:
        part, resolver = left.pop()
        match part:
            case dict() as members:
                if isinstance(members.get("$id"), str):
                    resolver = resolver.in_subresource(DRAFT202012.create_resource(members))
                for name in ("$ref", "$dynamicRef"):
                    if not isinstance(ref := members.get(name), str):
                        continue
                    if not ref.startswith("#"):
                        raise ValueError(f"{name} {ref!r} leaves the schema; only #… is followed")
                    try:
                        resolver.lookup(ref)
                    except Unresolvable as error:
                        raise ValueError(f"{name} {ref!r} leads to no place in it") from error
                left.extend((member, resolver) for member in members.values())
            case list() as items:
                left.extend((item, resolver) for item in items)


def _check_patterns(schema: Mapping[str, object]) -> None:
    """Raises re.error for a pattern that is none."""
    left: list[object] = [schema]
    while left:
        match left.pop():
            case dict() as members:
                if isinstance(pattern := members.get("pattern"), str):
                    re.compile(pattern)
                if isinstance(patterns := members.get("patternProperties"), dict):
                    for pattern in patterns:
                        re.compile(pattern)
                left.extend(members.values())
            case list() as items:
                left.extend(items)


def _cut(text: str) -> str:
    line = _plain(text)
    return f'"{line}"' if text else "nothing"


def _plain(text: str) -> str:
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"


if __name__ == "__main__":
    sys.exit(main())
