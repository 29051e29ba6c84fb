"""JSON schemas that callers send (structured output, tool parameters): what may reach an engine's grammar.

An engine compiles a schema to a grammar, in native code and before any token is made; patterns and recursion
there have crashed or stalled engines (CVE-2025-48944), so both are refused here.
"""

from collections.abc import Iterator, Mapping

from weighbridge.errors import InvalidError

SCHEMA_NODES_MAX = 5_000
_NAMED_CHILDREN = ("properties", "$defs", "definitions", "dependentSchemas")
_LISTED_CHILDREN = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE_CHILDREN = ("items", "additionalProperties", "not", "if", "then", "else", "contains")
_REFUSED = ("pattern", "patternProperties", "$dynamicRef", "$recursiveRef")
_LOCAL_REFERENCES = ("#/$defs/", "#/definitions/")


def check_schema(schema: Mapping[str, object], *, strict: bool, where: str) -> None:
    """Raises InvalidError for what no engine here honours, and in strict mode for what the API forbids."""
    references: dict[str, set[str]] = {}
    for count, (owner, node) in enumerate(_nodes(schema)):
        if count >= SCHEMA_NODES_MAX:
            raise _refused(where, f"has more than {SCHEMA_NODES_MAX} parts")
        for word in _REFUSED:
            if word in node:
                raise _refused(where, f"uses '{word}', which is not supported")
        if "$ref" in node:
            references.setdefault(owner, set()).add(_local(node["$ref"], where))
        if strict:
            _check_strict(node, where)
    _check_acyclic(references, where)


def _nodes(schema: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Every subschema with the name of the definition it lies in ('' for the root)."""
    waiting: list[tuple[str, object]] = [("", schema)]
    while waiting:
        owner, node = waiting.pop()
        if not isinstance(node, Mapping):
            continue
        yield owner, node
        for word in _NAMED_CHILDREN:
            children = node.get(word)
            if isinstance(children, Mapping):
                defines = word in ("$defs", "definitions")
                waiting += [(name if defines else owner, child) for name, child in children.items()]
        for word in _LISTED_CHILDREN:
            listed = node.get(word)
            if isinstance(listed, list):
                waiting += [(owner, child) for child in listed]
        waiting += [(owner, node[word]) for word in _SINGLE_CHILDREN if word in node]


def _local(reference: object, where: str) -> str:
    for prefix in _LOCAL_REFERENCES:
        if isinstance(reference, str) and reference.startswith(prefix):
            return reference[len(prefix) :].partition("/")[0]
    raise _refused(where, "has a $ref that is not '#/$defs/…'")


def _check_strict(node: Mapping[str, object], where: str) -> None:
    if "definitions" in node:
        raise _refused(where, "must name its definitions '$defs'")
    if node.get("type") == "object" and node.get("additionalProperties") is not False:
        raise _refused(where, "needs 'additionalProperties': false at every object level")


def _check_acyclic(references: Mapping[str, set[str]], where: str) -> None:
    # Take away, again and again, the definitions that refer to nothing that is left; a cycle remains.
    left = dict(references)
    while leaves := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in leaves:
            del left[name]
    if left:
        raise _refused(where, "refers to itself, which is not supported")


def _refused(where: str, what: str) -> InvalidError:
    return InvalidError(
        f"{where}: the schema {what}", code="wrong_api_format", param="response_format"
    )
