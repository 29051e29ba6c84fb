"""Deployments on the real database: what is refused, in what order they wait, and how they are ended."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, text, update
from sqlalchemy.exc import IntegrityError

from weighbridge.accounts.model import Org
from weighbridge.errors import ConflictError, InvalidError, LimitError, NotFoundError, StaleError
from weighbridge.registry.names import VersionName
from weighbridge.rollouts import service, store
from weighbridge.rollouts.canaries import service as canaries
from weighbridge.rollouts.model import Deployment, RolloutStatus
from weighbridge.storage.database import Database, Transaction
from weighbridge.storage.tables import (
    aliases,
    architectures,
    deployments,
    endpoints,
    model_versions,
    orgs,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUEUE_MAX = 16
ACME = Org("org_1", "acme", "x1", None, NOW)
OTHER = Org("org_2", "other", "x2", None, NOW)


@pytest.fixture
async def tx(database: Database) -> AsyncIterator[Transaction]:
    async with database.begin() as opened:
        await opened.execute(
            insert(orgs),
            [
                {"id": o.id, "name": o.name, "s3_external_id": o.s3_external_id, "created_at": NOW}
                for o in (ACME, OTHER)
            ],
        )
        stamps = {"created_at": NOW, "updated_at": NOW}
        await opened.execute(
            insert(architectures),
            [
                {
                    "id": arch,
                    "source_uri": "/m",
                    "base_digest": "b",
                    "tensors": [],
                    "engine": {},
                    **stamps,
                }
                for arch in ("tiny", "large")
            ],
        )
        await opened.execute(
            insert(model_versions),
            [
                {
                    "id": f"v{n}",
                    "org_id": ACME.id,
                    "arch_id": "tiny",
                    "number": n,
                    "weight_uri": "s3://b/p",
                    "status": "queued" if n == 9 else "done",
                    "manifest_digest": None if n == 9 else f"{n}" * 64,
                    **stamps,
                }
                for n in (1, 2, 9)
            ],
        )
        await opened.execute(
            insert(aliases).values(
                org_id=ACME.id, arch_id="tiny", alias="production", version_id="v2", position=0
            )
        )
        await opened.execute(
            insert(endpoints).values(
                id="chat",
                org_id=ACME.id,
                arch_id="tiny",
                replicas=2,
                max_unavailable=0,
                max_surge=1,
                **stamps,
            )
        )
        yield opened


async def go_back(tx: Transaction, deployment_id: str) -> Deployment:
    return await service.rollback(
        tx, ACME, "chat", deployment_id=deployment_id, now=NOW, queue_max=QUEUE_MAX
    )


async def submit(tx: Transaction, number: int, ref: int | str = 1, **changes: object) -> Deployment:
    values = {"deployment_id": f"d{number}", "now": NOW + timedelta(seconds=number)}
    values |= {"queue_max": QUEUE_MAX, **changes}
    return await service.deploy(tx, ACME, "chat", VersionName("acme", "tiny", ref), **values)


async def move(tx: Transaction, one: Deployment, *path: RolloutStatus) -> Deployment:
    for status in path:
        await store.save(tx, one, replace(one, status=status), NOW)
        one = await service.deployment(tx, one.id, org_id=None)
    return one


async def test_an_alias_is_resolved_once_at_submission(tx: Transaction) -> None:
    made = await submit(tx, 1, "production")
    await tx.execute(update(aliases).values(version_id="v1"))
    kept = await service.deployment(tx, made.id, org_id=ACME.id)
    assert (kept.version_number, kept.reference) == (2, "production")
    assert kept.digest == "2" * 64
    assert kept.fingerprint == "fp_" + "2" * 20
    assert kept == made


@pytest.mark.parametrize(
    ("org", "endpoint_id", "name", "error"),
    [
        (OTHER, "chat", VersionName("acme", "tiny", 1), NotFoundError),
        (OTHER, "chat", VersionName("other", "tiny", 1), NotFoundError),
        (ACME, "nowhere", VersionName("acme", "tiny", 1), NotFoundError),
        (ACME, "chat", VersionName("acme", "tiny", 7), NotFoundError),
        (ACME, "chat", VersionName("acme", "tiny", "staging"), NotFoundError),
        (ACME, "chat", VersionName("acme", "large", 1), InvalidError),
        (ACME, "chat", VersionName("acme", "tiny", 9), ConflictError),
    ],
)
async def test_what_cannot_be_deployed_is_refused_and_leaves_no_row(
    tx: Transaction, org: Org, endpoint_id: str, name: VersionName, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await service.deploy(
            tx, org, endpoint_id, name, deployment_id="d1", now=NOW, queue_max=QUEUE_MAX
        )
    assert await store.open_of(tx, "chat") == []


async def test_sixteen_deployments_wait_and_the_seventeenth_is_refused(tx: Transaction) -> None:
    for number in range(16):
        await submit(tx, number)
    with pytest.raises(LimitError, match="16 deployments wait"):
        await submit(tx, 16)
    first, *rest = await store.open_of(tx, "chat")
    assert [d.id for d in (first, *rest)] == [f"d{n}" for n in range(16)]
    await move(tx, first, RolloutStatus.IN_PROGRESS)
    await submit(tx, 17)


async def test_a_deployment_waits_while_another_goes_back(tx: Transaction) -> None:
    first = await submit(tx, 1)
    await move(tx, first, RolloutStatus.IN_PROGRESS, RolloutStatus.ROLLING_BACK)
    await submit(tx, 2)
    active, waits = await store.open_of(tx, "chat")
    assert (active.status, waits.status) == (RolloutStatus.ROLLING_BACK, RolloutStatus.NOT_STARTED)


async def test_where_the_latest_wins_a_new_deployment_ends_those_that_wait_and_no_other(
    tx: Transaction,
) -> None:
    await tx.execute(update(endpoints).values(queue_policy="latest_wins"))
    first = await submit(tx, 1)
    await move(tx, first, RolloutStatus.IN_PROGRESS)
    await submit(tx, 2)
    third = await submit(tx, 3, queue_max=1)
    assert [d.id for d in await store.open_of(tx, "chat")] == ["d1", "d3"]
    assert third.reason == "queued behind d1"
    gone = await service.deployment(tx, "d2", org_id=ACME.id)
    assert (gone.status, gone.error_message) == (RolloutStatus.CANCELLED, "superseded by d3")
    assert gone.finished_at == NOW + timedelta(seconds=3)


async def test_a_deployment_keeps_the_engine_settings_of_its_submission(tx: Transaction) -> None:
    first = await submit(tx, 1)
    await tx.execute(update(architectures).values(engine={"threads": 2}))
    second = await submit(tx, 2)
    third = await submit(tx, 3)
    assert first.settings_digest != second.settings_digest == third.settings_digest


async def test_a_version_that_is_no_longer_whole_is_told_apart(tx: Transaction) -> None:
    one = await submit(tx, 1)
    assert not await store.withdrawn(tx, one)
    await tx.execute(update(model_versions).values(status="error"))
    assert await store.withdrawn(tx, one)


async def test_two_active_deployments_of_one_endpoint_are_impossible(tx: Transaction) -> None:
    first, second = await submit(tx, 1), await submit(tx, 2)
    await move(tx, first, RolloutStatus.IN_PROGRESS)
    with pytest.raises(IntegrityError):
        async with tx.begin_nested():
            await move(tx, second, RolloutStatus.IN_PROGRESS)


async def test_a_write_on_what_has_changed_since_is_stale(tx: Transaction) -> None:
    seen = await submit(tx, 1)
    await store.save(tx, seen, replace(seen, reason="first writer"), NOW)
    with pytest.raises(StaleError):
        await store.save(tx, seen, replace(seen, reason="second writer"), NOW)
    assert (await service.deployment(tx, "d1", org_id=None)).reason == "first writer"


async def test_a_waiting_deployment_is_cancelled_at_once_and_twice_is_the_same(
    tx: Transaction,
) -> None:
    await submit(tx, 1)
    once = await service.cancel(tx, "d1", org_id=ACME.id, now=NOW)
    assert once.status is RolloutStatus.CANCELLED
    assert await service.cancel(tx, "d1", org_id=ACME.id, now=NOW) == once


async def test_a_running_deployment_is_asked_to_go_back(tx: Transaction) -> None:
    await move(tx, await submit(tx, 1), RolloutStatus.IN_PROGRESS)
    asked = await service.cancel(tx, "d1", org_id=ACME.id, now=NOW)
    assert (asked.status, asked.cancel_requested) == (RolloutStatus.IN_PROGRESS, True)
    assert await service.cancel(tx, "d1", org_id=ACME.id, now=NOW) == asked


@pytest.mark.parametrize(
    "path",
    [
        (RolloutStatus.IN_PROGRESS, RolloutStatus.ROLLING_BACK),
        (RolloutStatus.IN_PROGRESS, RolloutStatus.DONE),
        (RolloutStatus.ERROR,),
    ],
)
async def test_what_goes_back_already_or_has_ended_cannot_be_cancelled(
    tx: Transaction, path: tuple[RolloutStatus, ...]
) -> None:
    ended = await move(tx, await submit(tx, 1), *path)
    with pytest.raises(ConflictError):
        await service.cancel(tx, "d1", org_id=ACME.id, now=NOW)
    assert await service.deployment(tx, "d1", org_id=None) == ended


async def test_of_a_cancel_and_a_done_at_the_same_moment_one_wins(tx: Transaction) -> None:
    first = await submit(tx, 1)
    seen = await move(tx, first, RolloutStatus.IN_PROGRESS)
    await service.cancel(tx, "d1", org_id=ACME.id, now=NOW)
    with pytest.raises(StaleError):
        await store.save(tx, seen, replace(seen, status=RolloutStatus.DONE), NOW)
    second = await submit(tx, 2)
    await store.save(
        tx,
        await service.deployment(tx, "d1", org_id=None),
        replace(await service.deployment(tx, "d1", org_id=None), status=RolloutStatus.DONE),
        NOW,
    )
    await move(tx, second, RolloutStatus.IN_PROGRESS, RolloutStatus.DONE)
    with pytest.raises(ConflictError, match="is done"):
        await service.cancel(tx, "d2", org_id=ACME.id, now=NOW)


async def test_a_canary_is_promoted_once_and_only_while_it_is_under_way(tx: Transaction) -> None:
    with pytest.raises(ConflictError, match="serves no version yet"):
        await submit(tx, 1, traffic_percent=25)
    await tx.execute(update(endpoints).values(base_deployment_id="d0"))
    one = await submit(tx, 1, traffic_percent=25)
    assert one.canary
    with pytest.raises(ConflictError, match="not_started and a canary"):
        await canaries.promote(tx, "d1", org_id=ACME.id, now=NOW)
    await move(tx, one, RolloutStatus.IN_PROGRESS)
    with pytest.raises(NotFoundError):
        await canaries.promote(tx, "d1", org_id=OTHER.id, now=NOW)
    promoted = await canaries.promote(tx, "d1", org_id=ACME.id, now=NOW)
    assert (promoted.canary, promoted.progress_at) == (False, NOW)
    later = NOW + timedelta(hours=1)
    assert await canaries.promote(tx, "d1", org_id=ACME.id, now=later) == promoted
    await move(tx, promoted, RolloutStatus.DONE)
    second = await submit(tx, 2)
    await move(tx, second, RolloutStatus.IN_PROGRESS)
    with pytest.raises(ConflictError, match="no canary"):
        await canaries.promote(tx, "d2", org_id=ACME.id, now=NOW)


async def test_a_canary_that_is_being_cancelled_is_not_promoted(tx: Transaction) -> None:
    await tx.execute(update(endpoints).values(base_deployment_id="d0"))
    await move(tx, await submit(tx, 1, traffic_percent=25), RolloutStatus.IN_PROGRESS)
    await service.cancel(tx, "d1", org_id=ACME.id, now=NOW)
    with pytest.raises(ConflictError, match="being cancelled"):
        await canaries.promote(tx, "d1", org_id=ACME.id, now=NOW)


async def test_without_room_for_two_versions_there_is_no_canary(tx: Transaction) -> None:
    shape = {"replicas": 1, "max_unavailable": 1, "max_surge": 0, "base_deployment_id": "d0"}
    await tx.execute(update(endpoints).values(**shape))
    with pytest.raises(ConflictError, match="no room"):
        await submit(tx, 1, traffic_percent=25)


async def test_another_orgs_deployment_does_not_exist(tx: Transaction) -> None:
    await submit(tx, 1)
    with pytest.raises(NotFoundError):
        await service.cancel(tx, "d1", org_id=OTHER.id, now=NOW)
    with pytest.raises(NotFoundError):
        await service.deployment(tx, "d1", org_id=OTHER.id)


async def finish(tx: Transaction, number: int, ref: int) -> Deployment:
    one = await submit(tx, number, ref)
    done = await move(tx, one, RolloutStatus.IN_PROGRESS, RolloutStatus.DONE)
    row = await store.lock_endpoint(tx, "chat")
    await store.set_base(tx, row.endpoint, done.id, NOW)
    return done


async def test_the_active_then_the_waiting_then_the_serving_then_history_are_listed(
    tx: Transaction,
) -> None:
    await finish(tx, 1, 1)
    await finish(tx, 2, 2)
    await move(tx, await submit(tx, 3), RolloutStatus.IN_PROGRESS, RolloutStatus.ERROR)
    await move(tx, await submit(tx, 4), RolloutStatus.IN_PROGRESS)
    await submit(tx, 5)
    listed = [d.id for d in await service.deployments_of(tx, "chat")]
    assert listed == ["d4", "d5", "d2", "d3", "d1"]
    capped = [d.id for d in await service.deployments_of(tx, "chat", limit=2)]
    assert capped == ["d4", "d5", "d2"]


async def test_a_rollback_queues_the_version_that_served_before(tx: Transaction) -> None:
    await finish(tx, 1, 1)
    await finish(tx, 2, 2)
    back = await go_back(tx, "d3")
    assert (back.version_number, back.status) == (1, RolloutStatus.NOT_STARTED)
    with pytest.raises(ConflictError, match="cancel it"):
        await go_back(tx, "d4")


async def test_without_an_earlier_version_there_is_nothing_to_roll_back_to(
    tx: Transaction,
) -> None:
    with pytest.raises(ConflictError):
        await go_back(tx, "d1")
    await finish(tx, 1, 1)
    with pytest.raises(ConflictError):
        await go_back(tx, "d2")
    await finish(tx, 3, 2)
    await tx.execute(
        update(model_versions).where(model_versions.c.id == "v1").values(deleted_at=text("now()"))
    )
    with pytest.raises(ConflictError, match="was deleted"):
        await go_back(tx, "d4")


async def test_time_without_a_controller_is_not_held_against_an_active_rollout(
    tx: Transaction,
) -> None:
    one = await move(tx, await submit(tx, 1), RolloutStatus.IN_PROGRESS)
    await tx.execute(update(deployments).values(progress_at=NOW - timedelta(hours=1)))
    await store.rearm_progress(tx, NOW)
    assert (await service.deployment(tx, one.id, org_id=None)).progress_at == NOW
