"""Check a receipt without a server: every entry, their order, the head, and what the seal adds up."""

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weighbridge.sdk.errors import ClientError
from weighbridge.sdk.receipts.chain import (
    ALGORITHM,
    FORMAT,
    GENESIS,
    SCHEMA,
    Entry,
    canonical,
    entry_hash,
)
from weighbridge.sdk.receipts.summary import EXTERNAL, summarise

MEMBERS = frozenset({"format", "schema", "algorithm", "deployment_id", "head", "sealed", "entries"})
OPTIONAL = frozenset({"signature"})
FINDINGS_MAX = 50


class ReceiptError(ClientError):
    """The text is no receipt, or not a whole one."""

    code = "not_a_receipt"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as it was read; nothing in it is proven until `examine` has looked."""

    deployment_id: str
    head: str
    sealed: bool
    entries: tuple[Entry, ...]
    signature: str | None
    raw: Mapping[str, object]

    @property
    def payloads(self) -> list[Mapping[str, object]]:
        return [entry.payload for entry in self.entries]

    @property
    def summary(self) -> Mapping[str, object] | None:
        match self.entries:
            case [*_, Entry(payload={"event": "sealed", "summary": Mapping() as summary})]:
                return summary
        return None


@dataclass(frozen=True, slots=True)
class Finding:
    """`sequence` is the entry it is about, where there is one."""

    sequence: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    findings: tuple[Finding, ...]
    sealed: bool

    @property
    def intact(self) -> bool:
        return not self.findings


def read_receipt(text: str) -> Receipt:
    """Raises ReceiptError for what is no receipt, cut off, or says one thing twice."""
    try:
        document: object = json.loads(text, object_pairs_hook=_once)
        json.dumps(document)
    except (ValueError, RecursionError) as error:
        raise ReceiptError(f"This is not a whole receipt: {error}") from error
    return receipt_of(document)


def receipt_of(document: object) -> Receipt:
    """Raises ReceiptError when members are missing, unknown or of another kind."""
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise ReceiptError(f"This is no receipt: its format is not {FORMAT!r}.")
    if wrong := sorted((set(document) ^ MEMBERS) - OPTIONAL):
        raise ReceiptError(f"This receipt lacks, or should not have: {', '.join(wrong)}.")
    match document:
        case {
            "schema": int(schema),
            "algorithm": str(algorithm),
            "deployment_id": str(deployment_id),
            "head": str(head),
            "sealed": bool(sealed),
            "entries": list(entries),
        } if not isinstance(schema, bool):
            if schema != SCHEMA or algorithm != ALGORITHM:
                raise ReceiptError(f"Schema {schema} with {algorithm} is not known here.")
            signature = document.get("signature")
            return Receipt(
                deployment_id,
                head,
                sealed,
                tuple(_entry(number, entry) for number, entry in enumerate(entries, 1)),
                signature if isinstance(signature, str) else None,
                document,
            )
    raise ReceiptError("A member of this receipt is of the wrong kind.")


def examine(receipt: Receipt, *, head: str | None = None) -> Verdict:
    """Everything that is wrong with a receipt; `head` is one published elsewhere, to compare with."""
    findings = _changed(receipt) + _order(receipt.entries)
    if not findings:
        findings += _links(receipt.entries)
    findings += _ends(receipt, head)
    if not findings:
        findings += _sums(receipt)
    return Verdict(tuple(findings[:FINDINGS_MAX]), receipt.summary is not None)


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands there twice")
    return members


def _entry(number: int, value: object) -> Entry:
    whole = isinstance(value, Mapping) and len(value) == 4
    match value:
        case {
            "sequence": int(sequence),
            "payload": Mapping() as payload,
            "previous": str(previous),
            "hash": str(digest),
        } if whole and not isinstance(sequence, bool):
            return Entry(sequence, payload, previous, digest)
    raise ReceiptError(f"Entry {number} has not the members of an entry.")


def _changed(receipt: Receipt) -> list[Finding]:
    findings = []
    for entry in receipt.entries:
        text = canonical(entry.payload)
        if entry_hash(receipt.deployment_id, entry.sequence, entry.previous, text) != entry.hash:
            words = f"entry {entry.sequence} was changed: its content does not give its hash"
            findings.append(Finding(entry.sequence, words))
    if len(findings) == len(receipt.entries) > 1:
        words = f"no entry is one of deployment {receipt.deployment_id}: its id was changed, or every entry"
        return [Finding(None, words)]
    return findings


def _order(entries: Sequence[Entry]) -> list[Finding]:
    """Missing, doubled and misplaced entries, by their numbers."""
    numbers = [entry.sequence for entry in entries]
    counts = Counter(numbers)
    findings = [
        Finding(number, f"entry {number} occurs {count} times")
        for number, count in sorted(counts.items())
        if count > 1
    ]
    last = max(numbers, default=0)
    if last > len(entries) + FINDINGS_MAX:
        return [*findings, Finding(None, f"{last - len(counts)} entries are missing")]
    findings += [
        Finding(number, f"entry {number} is missing")
        for number in range(1, last + 1)
        if number not in counts
    ]
    findings += [
        Finding(after, f"entries are out of order: {before} stands before {after}")
        for before, after in itertools.pairwise(numbers)
        if before > after
    ]
    return findings


def _links(entries: Sequence[Entry]) -> list[Finding]:
    """Between entries that are each whole and in order: one was replaced, with a hash made anew."""
    findings = []
    head = GENESIS
    for entry in entries:
        if entry.previous != head:
            words = (
                f"entry {entry.sequence} does not follow entry {entry.sequence - 1}: "
                f"entry {entry.sequence - 1} was replaced, or entry {entry.sequence}"
                if entry.sequence > 1
                else "entry 1 does not begin a chain: it was replaced"
            )
            findings.append(Finding(entry.sequence, words))
        head = entry.hash
    return findings


def _ends(receipt: Receipt, head: str | None) -> list[Finding]:
    last = receipt.entries[-1].hash if receipt.entries else GENESIS
    findings = []
    if receipt.head != last:
        words = (
            f"the head is not the hash of the last entry: entries after {len(receipt.entries)} are missing, "
            "or the head was changed"
        )
        findings.append(Finding(None, words))
    if head is not None and head != last:
        findings.append(Finding(None, f"the last hash is {last}, not the published {head}"))
    if receipt.sealed != (receipt.summary is not None):
        words = "it says that it is sealed, but its last entry is no seal"
        if not receipt.sealed:
            words = "it says that it is not sealed, but its last entry is a seal"
        findings.append(Finding(None, words))
    if any(one.get("event") == "sealed" for one in receipt.payloads[:-1]):
        findings.append(Finding(None, "entries follow a seal"))
    return findings


def _sums(receipt: Receipt) -> list[Finding]:
    """The seal must say what the entries add up to: a chain made anew by somebody careless does not."""
    summary = receipt.summary
    if summary is None:
        return []
    try:
        again = summarise(receipt.payloads[:-1], {name: summary.get(name) for name in EXTERNAL})
    except (KeyError, ValueError, TypeError) as error:
        return [Finding(None, f"its entries cannot be added up: {error!r}")]
    differ = [
        name for name in again.keys() | summary.keys() if again.get(name) != summary.get(name)
    ]
    sequence = receipt.entries[-1].sequence
    return [
        Finding(sequence, f"the seal's {name} is not what the entries add up to")
        for name in sorted(differ)
    ]
