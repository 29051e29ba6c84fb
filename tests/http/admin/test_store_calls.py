"""The operator's calls on the weight store: what it holds, what nobody needs, what is damaged."""

import os

from control_world import Caller, World

ADMIN = "/admin/v1"


async def test_the_store_shows_what_nobody_needs_and_collects_it_when_told(
    world: World, operator: Caller
) -> None:
    store = world.parts.store
    orphan, size = store.put_bytes(b"nobody names this")
    os.utime(store.blob_path(orphan), (0, 0))
    fresh = (await operator("GET", f"{ADMIN}/store")).json()
    assert fresh["unused_blobs"] == 0, "what came within the hour may be a sync's"
    assert fresh["damaged"] == []
    for dry_run in (True, False):
        answer = await operator("POST", f"{ADMIN}/store:collect", {"dry_run": dry_run})
        assert answer.json() == {"dry_run": dry_run, "blobs": 0, "size_bytes": 0}
    assert store.has_blob(orphan)
    assert fresh["blobs"] >= 1
    assert fresh["blob_bytes"] >= size


async def test_a_verification_makes_every_blob_due_and_wakes_the_reconciler(
    world: World, operator: Caller
) -> None:
    digest, _ = world.parts.store.put_bytes(b"fine")
    world.parts.store.verifications.note(digest)
    asked = (await operator("POST", f"{ADMIN}/store:verify")).json()
    assert asked["due_blobs"] == asked["blobs"]
    assert "ingest" in world.woken


async def test_a_damaged_blob_is_named_with_what_it_cost(world: World, operator: Caller) -> None:
    digest, _ = world.parts.store.put_bytes(b"rotten")
    world.parts.store.take_away(digest, "unreadable")
    (damaged,) = (await operator("GET", f"{ADMIN}/store")).json()["damaged"]
    assert damaged["digest"] == digest
    assert damaged["found_digest"] == "unreadable"
    assert damaged["versions"] == []
