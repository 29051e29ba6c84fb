"""An alias moves in one call, only from where the caller saw it, and its history tells every change."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from control_world import ARCH, Caller, World
from weighbridge.accounts.model import Org
from weighbridge.registry.names import ALIASES_MAX
from weighbridge.storage.tables import alias_history, aliases, model_versions

MODELS = "/management/v1/orgs/my-org/models"
VERSIONS = f"{MODELS}/{ARCH}/versions"
ALIAS = f"{MODELS}/{ARCH}/aliases/production"


async def upload(member: Caller, *names: str) -> None:
    body = {
        "model_arch_id": ARCH,
        "model": {"weight_uri": "s3://my-bucket/w", "version_aliases": list(names)},
    }
    answer = await member("POST", f"{MODELS}:upload", body)
    assert answer.status_code == 200, answer.text


@pytest.fixture
async def two_versions(member: Caller) -> None:
    await upload(member, "production", "first")
    await upload(member)


def version(number: int) -> str:
    return f"orgs/my-org/models/{ARCH}/versions/{number}"


@pytest.mark.usefixtures("two_versions")
async def test_an_alias_moves_in_one_call_and_the_other_aliases_stay(member: Caller) -> None:
    answer = await member("POST", f"{ALIAS}:move", {"to": 2, "expected": 1})
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "name": f"orgs/my-org/models/{ARCH}/aliases/production",
            "model": version(2),
            "previous_model": version(1),
        },
    )
    assert (await member("GET", f"{VERSIONS}/production")).json()["name"] == version(2)
    assert (await member("GET", f"{VERSIONS}/1")).json()["response"]["version_aliases"] == ["first"]


@pytest.mark.usefixtures("two_versions")
async def test_versions_are_named_by_number_text_or_alias(member: Caller) -> None:
    moved = await member("POST", f"{ALIAS}:move", {"to": "2", "expected": "first"})
    assert moved.json()["model"] == version(2)
    by_itself = await member("POST", f"{ALIAS}:move", {"to": "first", "expected": "production"})
    assert by_itself.json()["model"] == version(1)


@pytest.mark.usefixtures("two_versions")
@pytest.mark.parametrize(("expected", "named"), [(2, "version 2"), (None, "no version")])
async def test_a_wrong_expectation_is_refused_and_told_who_holds_it(
    member: Caller, expected: int | None, named: str
) -> None:
    answer = await member("POST", f"{ALIAS}:move", {"to": 2, "expected": expected})
    assert (answer.status_code, answer.json()["code"]) == (409, "alias_moved")
    assert f"held by version 1, not by {named}" in answer.json()["message"]
    assert (await member("GET", f"{VERSIONS}/production")).json()["name"] == version(1)


@pytest.mark.usefixtures("two_versions")
async def test_an_alias_nobody_holds_is_given_with_expected_null(member: Caller) -> None:
    fresh = f"{MODELS}/{ARCH}/aliases/fresh"
    refused = await member("POST", f"{fresh}:move", {"to": 2, "expected": 1})
    assert "held by no version, not by version 1" in refused.json()["message"]
    given_ = await member("POST", f"{fresh}:move", {"to": 2, "expected": None})
    assert (given_.status_code, "previous_model" in given_.json()) == (200, False)


@pytest.mark.usefixtures("two_versions")
async def test_what_is_not_a_move_is_refused(member: Caller) -> None:
    for body, status in (
        ({"to": 2}, 400),
        ({"to": None, "expected": 1}, 400),
        ({"to": True, "expected": 1}, 400),
        ({"to": 9, "expected": 1}, 404),
        ({"to": 2, "expected": 9}, 404),
        ({"to": "NO", "expected": 1}, 400),
    ):
        assert (await member("POST", f"{ALIAS}:move", body)).status_code == status, body
    number_like = f"{MODELS}/{ARCH}/aliases/12:move"
    answer = await member("POST", number_like, {"to": 2, "expected": None})
    assert (answer.status_code, answer.json()["param"]) == (400, "alias")


async def test_a_version_with_the_most_aliases_gets_no_further_one(member: Caller) -> None:
    await upload(member, *(f"a{n}x" for n in range(ALIASES_MAX)))
    await upload(member, "production")
    answer = await member("POST", f"{ALIAS}:move", {"to": 1, "expected": 2})
    assert (answer.status_code, answer.json()["code"]) == (400, "too_many_aliases")
    assert answer.json()["param"] == "to"


@pytest.mark.usefixtures("two_versions")
async def test_a_move_repeated_with_its_idempotency_key_is_answered_again(member: Caller) -> None:
    headers = {
        "authorization": f"Bearer {member.key}",
        "content-type": "application/json",
        "idempotency-key": "k1",
    }
    content = b'{"to": 2, "expected": 1}'
    first = await member.client.post(f"{ALIAS}:move", content=content, headers=headers)
    again = await member.client.post(f"{ALIAS}:move", content=content, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()


async def test_history_tells_every_path_that_changes_an_alias(world: World, member: Caller) -> None:
    async def changes() -> list[tuple[str, str | None, str | None]]:
        shown = (await member("GET", f"{ALIAS}/history")).json()["changes"]
        return [(c["cause"], c.get("from_version"), c.get("to_version")) for c in shown]

    await upload(member, "production")
    await upload(member)
    assert await changes() == [("upload", None, version(1))]
    await member("POST", f"{ALIAS}:move", {"to": 2, "expected": 1})
    await member("PATCH", f"{VERSIONS}/2", {"version_aliases": ["other"]})
    await member("PATCH", f"{VERSIONS}/1", {"version_aliases": ["production", "again"]})
    world.pass_time(60)
    assert (await member("DELETE", f"{VERSIONS}/1")).status_code == 200
    assert await changes() == [
        ("delete", version(1), None),
        ("replace", None, version(1)),
        ("replace", version(2), None),
        ("move", version(1), version(2)),
        ("upload", None, version(1)),
    ]
    newest = (await member("GET", f"{ALIAS}/history")).json()["changes"][0]
    assert newest["changed"] == int(world.time.timestamp())
    assert newest["key_id"]


@pytest.mark.usefixtures("two_versions")
async def test_nothing_is_written_down_where_nothing_changed(member: Caller) -> None:
    await member("POST", f"{ALIAS}:move", {"to": 1, "expected": 1})
    await member("PATCH", f"{VERSIONS}/1", {"version_aliases": ["first", "production"]})
    await member("POST", f"{ALIAS}:move", {"to": 2, "expected": 2})
    assert len((await member("GET", f"{ALIAS}/history")).json()["changes"]) == 1


@pytest.mark.usefixtures("two_versions")
async def test_history_comes_in_pages_that_join_without_gap(member: Caller) -> None:
    for turn in range(5):
        to, expected = (2, 1) if turn % 2 == 0 else (1, 2)
        await member("POST", f"{ALIAS}:move", {"to": to, "expected": expected})
    whole = (await member("GET", f"{ALIAS}/history")).json()
    assert "next_page_token" not in whole
    joined, token = [], None
    for _ in range(10):
        query = "?page_size=4" + (f"&page_token={token}" if token else "")
        page = (await member("GET", f"{ALIAS}/history{query}")).json()
        joined += page["changes"]
        token = page.get("next_page_token")
        if token is None:
            break
    assert joined == whole["changes"]
    assert len(joined) == 6
    assert (await member("GET", f"{ALIAS}/history?page_token=x")).json()["param"] == "page_token"
    assert (await member("GET", f"{ALIAS}/history?page_size=0")).status_code == 400


@dataclass(frozen=True)
class Ask:
    """One call among several at once: PATCH of a version's set, or a move of one alias."""

    number: int
    names: tuple[str, ...] = ()
    expected: int | None = None
    alias: str | None = None

    async def send(self, member: Caller) -> int:
        if self.alias is None:
            path, body = f"{VERSIONS}/{self.number}", {"version_aliases": list(self.names)}
            return (await member("PATCH", path, body)).status_code
        path = f"{MODELS}/{ARCH}/aliases/{self.alias}:move"
        body = {"to": self.number, "expected": self.expected}
        return (await member("POST", path, body)).status_code


NAMES = ("aa", "bb", "cc")
NUMBERS = st.integers(1, 3)
ASKS = st.lists(
    st.builds(Ask, NUMBERS, st.lists(st.sampled_from(NAMES), unique=True).map(tuple))
    | st.builds(
        Ask,
        NUMBERS,
        expected=st.none() | NUMBERS,
        alias=st.sampled_from(NAMES),
    ),
    min_size=2,
    max_size=8,
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(asks=ASKS)
async def test_no_interleaving_of_moves_and_replacements_steals_an_alias(
    world: World, org: Org, member: Caller, asks: list[Ask]
) -> None:
    """V3, V5: replayed in its order the history is a chain per alias, and ends where the aliases point."""
    known = await member("GET", VERSIONS)
    for _ in range(3 - len(known.json().get("model_versions", []))):
        await upload(member)
    statuses = await asyncio.gather(*(ask.send(member) for ask in asks))
    assert set(statuses) <= {200, 409}
    async with world.database.begin() as tx:
        changes = (await tx.execute(select(alias_history).order_by(alias_history.c.sequence))).all()
        held = await tx.execute(
            select(aliases.c.alias, model_versions.c.number).join(
                model_versions, model_versions.c.id == aliases.c.version_id
            )
        )
        holders = {row.alias: row.number for row in held}
    points: dict[str, int | None] = {}
    for change in changes:
        assert change.from_number == points.get(change.alias), (
            "a change starts where the last ended"
        )
        if change.from_number is not None and change.to_number is not None:
            assert change.cause == "move", "only a move takes an alias from a version to another"
        points[change.alias] = change.to_number
    assert {alias: number for alias, number in points.items() if number is not None} == holders
