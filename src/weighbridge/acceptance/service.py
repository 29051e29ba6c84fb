"""What callers may ask of acceptance probes: set them, read them, see how a serving replica answers them."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from weighbridge.acceptance import store
from weighbridge.acceptance.judging import Case, judge
from weighbridge.acceptance.model import PROBES_MAX, SCHEMA_CHARS_MAX, Checks, Probe
from weighbridge.acceptance.store import ProbeSet, Scope
from weighbridge.errors import InvalidError
from weighbridge.storage.database import Transaction

NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL character as JSON writes it, and no backslash that happens to stand before the same letters."""


async def check(probes: Sequence[Probe]) -> None:
    """Refuse what could never be asked or checked. Outside transactions: patterns are tried in a process."""
    if len(probes) > PROBES_MAX:
        raise _bad(f"There are {len(probes)} probes; {PROBES_MAX} are the most.", "probes")
    names = [probe.name for probe in probes]
    for place, probe in enumerate(probes):
        where = f"probes.{place}"
        if names.count(probe.name) > 1:
            raise _bad(f"Two probes are called '{probe.name}'.", f"{where}.name")
        if (probe.prompt is None) == (not probe.messages):
            words = f"Probe '{probe.name}' needs either messages or a prompt."
            raise _bad(words, f"{where}.messages")
        if probe.checks == Checks():
            raise _bad(f"Probe '{probe.name}' checks nothing.", f"{where}.checks")
        if probe.checks.json_schema is not None:
            _check_storable(probe, probe.checks.json_schema, f"{where}.checks.json_schema")
    judged = await judge([Case.of(probe.checks, None) for probe in probes])
    for place, (probe, failures) in enumerate(zip(probes, judged, strict=True)):
        for failure in failures:
            words = f"Probe '{probe.name}': {failure.detail}."
            raise _bad(words, f"probes.{place}.checks.{failure.check}")


async def replace(
    tx: Transaction, scope: Scope, owner_id: str, probes: Sequence[Probe], *, now: datetime
) -> ProbeSet:
    """Put a checked set in the place of the present one; replicas that are started have theirs already."""
    await store.replace(tx, scope, owner_id, probes, now)
    return ProbeSet(probes, now)


def _check_storable(probe: Probe, schema: Mapping[str, object], param: str) -> None:
    """Refuse a schema that is too long, or that no JSONB column takes: NUL and half surrogates."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError) as error:
        words = (
            f"The schema of probe '{probe.name}' is not plain JSON; write it without what is odd."
        )
        raise _bad(words, param) from error
    if len(text) > SCHEMA_CHARS_MAX:
        words = f"The schema of probe '{probe.name}' has {len(text):,} characters; {SCHEMA_CHARS_MAX:,} are the most."
        raise _bad(words, param)
    if NUL_ESCAPE.search(text):
        raise _bad(
            f"The schema of probe '{probe.name}' has a NUL character (\\u0000); take it out.", param
        )


def _bad(message: str, param: str) -> InvalidError:
    return InvalidError(message, code="invalid_probe", param=param)
