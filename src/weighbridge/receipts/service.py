"""What others may ask of receipts: add to one in their own transaction, and read one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weighbridge.receipts import store
from weighbridge.sdk.receipts.chain import ALGORITHM, FORMAT, SCHEMA, Entry, link
from weighbridge.storage.database import Transaction

Payload = Mapping[str, object]
"""One event: `event` names it, `at` is its time; text, integers, booleans and lists of them, no fractions."""

ENTRIES_MAX = 50_000
"""Of one receipt. Beyond it replicas' events are left out and counted; the deployment's own never."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A receipt with its entries."""

    head: store.Head
    entries: Sequence[Entry]

    def document(self) -> dict[str, object]:
        """The file format."""
        document: dict[str, object] = {
            "format": FORMAT,
            "schema": SCHEMA,
            "algorithm": ALGORITHM,
            "deployment_id": self.head.deployment_id,
            "head": self.head.head,
            "sealed": self.head.sealed_at is not None,
            "entries": [
                {
                    "sequence": entry.sequence,
                    "payload": dict(entry.payload),
                    "previous": entry.previous,
                    "hash": entry.hash,
                }
                for entry in self.entries
            ],
        }
        if self.head.signature is not None:
            document["signature"] = self.head.signature
        return document


async def tell(
    tx: Transaction,
    deployment_id: str,
    endpoint_id: str,
    payloads: Sequence[Payload],
    *,
    follow: bool = False,
) -> None:
    """Add events to a deployment's receipt. Call last in a transaction: it locks the receipt until commit.

    With `follow` this receipt also tells of the endpoint's replicas from now on.
    """
    if not payloads:
        return
    await store.begin(tx, deployment_id, endpoint_id)
    if follow:
        await store.follow(tx, deployment_id, endpoint_id)
    head = await store.lock(tx, deployment_id)
    if head is not None:
        await _append(tx, head, payloads)


async def tell_of_replicas(tx: Transaction, endpoint_id: str, payloads: Sequence[Payload]) -> None:
    """Add what replicas of an endpoint did to the receipt that follows it, if one does. Call last, likewise."""
    if not payloads:
        return
    head = await store.lock_followed(tx, endpoint_id)
    if head is not None:
        await _append(tx, head, payloads)


async def read(tx: Transaction, deployment_id: str) -> Stored | None:
    """A deployment's receipt as far as it goes; None for a deployment of before there were receipts."""
    head = await store.find(tx, deployment_id)
    if head is None:
        return None
    # In one transaction the head may be older than the entries, never newer.
    return Stored(head, await store.entries_of(tx, deployment_id, head.entries))


async def sealed_head(tx: Transaction, deployment_id: str) -> str | None:
    """The final hash of a sealed receipt; None before."""
    head = await store.find(tx, deployment_id)
    return None if head is None or head.sealed_at is None else head.head


async def _append(tx: Transaction, head: store.Head, payloads: Sequence[Payload]) -> None:
    if head.sealed_at is not None:
        return
    kept = [one for one in payloads if head.entries < ENTRIES_MAX or one.get("event") != "replica"]
    count = await store.routable(tx, head.endpoint_id)
    kept = [{**one, "routable": count} for one in kept]
    entries = link(head.deployment_id, head.entries, head.head, kept)
    await store.append(tx, head, entries, omitted=len(payloads) - len(kept))
