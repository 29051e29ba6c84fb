"""Any order of calls over HTTP, with rollouts going on, against a model of what must hold.

The real app and the real rollouts reconciler on the real database; only the life of replicas is played.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from api_world import ALIASES, ENDPOINTS, ORGS, QUEUE_MAX, ApiWorld, Place
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from control_world import ARCH

orgs = st.sampled_from([ORGS[0], ORGS[0], ORGS[0], ORGS[1]])
"""Most calls are about one org, so that they meet."""
names = st.lists(st.sampled_from(ALIASES), unique=True, max_size=2)
refs = st.integers(1, 4) | st.sampled_from(ALIASES)
where = st.sampled_from([ENDPOINTS[0], ENDPOINTS[0], ENDPOINTS[0], ENDPOINTS[1]])
picks = st.integers(0, 50)


class ApiPlay(ApiWorld):
    """Each rule is one call and says what must be answered; the invariants hold after each."""

    @initialize()
    def begin(self) -> None:
        """Both orgs have versions and an endpoint; the first one's serves version 1."""
        self.run(self._begin())
        for org, endpoint in zip(ORGS, ENDPOINTS, strict=True):
            for aliases in ([ALIASES[0]], [ALIASES[1]], []):
                self.upload(org, aliases)
                self.sync_ends(org, 0)
            self.create_endpoint(org, endpoint, 2)
        self.allow_scaling(ENDPOINTS[0], 4)
        self.deploy(ORGS[0], ENDPOINTS[0], 1, dry=False)
        self.everything_settles()

    # Versions and aliases

    @rule(org=orgs, aliases=names)
    def upload(self, org: str, aliases: list[str]) -> None:
        """V1, V2, V5: the next number, or nothing at all."""
        mine = self.versions[org]
        body = {
            "model_arch_id": ARCH,
            "model": {"weight_uri": "s3://my-bucket/w", "version_aliases": aliases},
        }
        answer = self.call(org, "POST", f"/orgs/{org}/models:upload", body)
        if set(aliases) & set(mine.aliases):
            assert answer.status_code == 409
            return
        assert answer.json()["name"].endswith(f"/versions/{mine.last + 1}")
        mine.last += 1
        mine.done[mine.last] = False
        mine.aliases |= dict.fromkeys(aliases, mine.last)

    @rule(org=orgs, pick=picks)
    def sync_ends(self, org: str, pick: int) -> None:
        mine = self.versions[org]
        waiting = [number for number, done in mine.done.items() if not done]
        if waiting:
            number = waiting[pick % len(waiting)]
            self.run(self.world.end_sync(self.known[org], number))
            mine.done[number] = True

    @rule(org=orgs, ref=refs, aliases=names)
    def patch(self, org: str, ref: int | str, aliases: list[str]) -> None:
        """V5: the whole set, nothing stolen."""
        mine = self.versions[org]
        path = f"/orgs/{org}/models/{ARCH}/versions/{ref}"
        answer = self.call(org, "PATCH", path, {"version_aliases": aliases})
        number = mine.find(ref)
        if number is None:
            assert answer.status_code == 404
        elif any(mine.aliases.get(alias, number) != number for alias in aliases):
            assert answer.status_code == 409
        else:
            assert answer.status_code == 200
            mine.drop_aliases(number)
            mine.aliases |= dict.fromkeys(aliases, number)

    @rule(org=orgs, alias=st.sampled_from(ALIASES), to=refs, expected=st.none() | refs)
    def move(self, org: str, alias: str, to: int | str, expected: int | str | None) -> None:
        mine = self.versions[org]
        path = f"/orgs/{org}/models/{ARCH}/aliases/{alias}:move"
        answer = self.call(org, "POST", path, {"to": to, "expected": expected})
        target, wanted = mine.find(to), mine.find(expected)
        if target is None or (expected is not None and wanted is None):
            assert answer.status_code == 404
        elif mine.aliases.get(alias) != wanted:
            assert (answer.status_code, answer.json()["code"]) == (409, "alias_moved")
        else:
            assert answer.status_code == 200
            mine.aliases[alias] = target

    @rule(org=orgs, ref=refs)
    def delete(self, org: str, ref: int | str) -> None:
        """V6, V7: exactly what nobody uses goes."""
        mine = self.versions[org]
        number = mine.find(ref)
        used = number is not None and self.run(self._used(org, number))
        answer = self.call(org, "DELETE", f"/orgs/{org}/models/{ARCH}/versions/{ref}")
        if number is None:
            assert answer.status_code == 404
            return
        assert answer.status_code == (409 if used else 200), answer.text
        if not used:
            del mine.done[number]
            mine.drop_aliases(number)

    # Endpoints

    @rule(org=orgs, endpoint=where, replicas_=st.integers(1, 3))
    def create_endpoint(self, org: str, endpoint: str, replicas_: int) -> None:
        body = {
            "endpoint_id": endpoint,
            "org_name": org,
            "model_arch_id": ARCH,
            "replicas": replicas_,
        }
        answer = self.admin("POST", "/endpoints", body)
        assert answer.status_code == (409 if endpoint in self.born else 200)
        if endpoint not in self.born:
            self.born.add(endpoint)
            self.places[endpoint] = Place(org, replicas_)

    @rule(endpoint=where, last=st.sampled_from([False, False, False, True]))
    def delete_endpoint(self, endpoint: str, last: bool) -> None:
        if last:
            busy = self.run(self._open(endpoint))
            answer = self.admin("DELETE", f"/endpoints/{endpoint}")
            expected = 404 if endpoint not in self.places else 409 if busy else 200
            assert answer.status_code == expected
            if expected == 200:
                del self.places[endpoint]

    @rule(endpoint=where, most=st.none() | st.integers(1, 4))
    def allow_scaling(self, endpoint: str, most: int | None) -> None:
        answer = self.admin("PATCH", f"/endpoints/{endpoint}", {"replicas_max": most})
        assert answer.status_code == (200 if endpoint in self.places else 404)
        if endpoint in self.places:
            self.places[endpoint].replicas_max = most

    @rule(org=orgs, endpoint=where, wanted=st.integers(0, 5))
    def scale(self, org: str, endpoint: str, wanted: int) -> None:
        """Within the operator's maximum; never below what a rollout under way brings up (R18)."""
        place = self.places.get(endpoint)
        active = [d for d in self.run(self._open(endpoint)) if d.status != "not_started"]
        answer = self.call(org, "POST", f"/endpoints/{endpoint}:scale", {"replicas": wanted})
        if place is None or place.org != org:
            assert answer.status_code == 404
        elif place.replicas_max is None:
            assert answer.status_code == 403
        elif not 1 <= wanted <= place.replicas_max:
            assert answer.status_code == 400
        elif wanted != place.replicas and active and wanted < active[0].replicas:
            assert answer.status_code == 409
        else:
            assert answer.json()["replicas"] == wanted, answer.text
            place.replicas = wanted

    # Deployments

    @rule(org=orgs, endpoint=where, ref=refs, dry=st.booleans())
    def deploy(self, org: str, endpoint: str, ref: int | str, dry: bool) -> None:
        """R7, R8; a dry run is answered with the same refusal and leaves nothing."""
        mine, place = self.versions[org], self.places.get(endpoint)
        waiting = [d for d in self.run(self._open(endpoint)) if d.status == "not_started"]
        body = {"model": f"orgs/{org}/models/{ARCH}/versions/{ref}"}
        if dry:
            answer = self.call(
                org, "POST", f"/endpoints/{endpoint}:deployModel", {**body, "dry_run": True}
            )
        else:
            answer = self.call(org, "POST", f"/endpoints/{endpoint}:deployModel", body)
        number = mine.find(ref)
        if place is None or place.org != org or number is None:
            assert answer.status_code == 404
        elif not mine.done[number]:
            assert (answer.status_code, answer.json()["code"]) == (409, "version_not_done")
        elif len(waiting) >= QUEUE_MAX:
            assert (answer.status_code, answer.json()["code"]) == (429, "deployment_queue_full")
        elif dry:
            if answer.status_code != 429:  # the calls of a minute are used up
                assert answer.json()["version_id"] == number
                assert answer.json()["expected_status"] in ("done", "error", "rolled_back")
        else:
            assert answer.json()["response"]["version_id"] == number
            self.made.append((org, str(answer.json()["name"])))

    @rule(ref=refs, seconds=st.sampled_from([1, 3]), fails=st.booleans())
    def deploy_and_begin(self, ref: int | str, seconds: int, fails: bool) -> None:
        self.deploy(ORGS[0], ENDPOINTS[0], ref, dry=False)
        for _ in range(3):
            self.time_passes(seconds, fails=fails)

    @rule(ref=refs)
    def deploy_and_settle(self, ref: int | str) -> None:
        self.deploy(ORGS[0], ENDPOINTS[0], ref, dry=False)
        self.everything_settles()

    @rule(org=orgs, endpoint=where)
    def rollback(self, org: str, endpoint: str) -> None:
        place, busy = self.places.get(endpoint), self.run(self._open(endpoint))
        answer = self.call(org, "POST", f"/endpoints/{endpoint}:rollback")
        if place is None or place.org != org:
            assert answer.status_code == 404
        elif busy:
            assert answer.json()["code"] == "deployment_in_progress"
        elif answer.status_code == 200:
            number = answer.json()["response"]["version_id"]
            assert self.versions[org].done[number]
            self.made.append((org, str(answer.json()["name"])))
        else:
            assert answer.json()["code"] == "nothing_to_roll_back_to"

    @precondition(lambda self: self.made)
    @rule(pick=picks, own=st.booleans())
    def cancel(self, pick: int, own: bool) -> None:
        """T2: another org's deployment is none."""
        org, deployment_id = self.made[pick % len(self.made)]
        caller = org if own else next(name for name in ORGS if name != org)
        before = self.call(org, "GET", f"/deployments/{deployment_id}").json()["state"]
        answer = self.call(caller, "POST", f"/deployments/{deployment_id}:cancel")
        if not own:
            absent = "00000000-0000-4000-8000-000000000000"
            none = self.call(caller, "POST", f"/deployments/{absent}:cancel")
            assert answer.status_code == none.status_code == 404
            assert answer.text == none.text.replace(absent, deployment_id)
        elif before == "not_started":
            assert answer.json()["state"] == "cancelled"
        elif before in ("done", "error", "rolled_back"):
            assert answer.status_code == 409
        else:
            assert answer.status_code in (200, 409)

    # Keys

    @rule(org=orgs)
    def replace_key(self, org: str) -> None:
        old = self.members[org]
        key_id = old.key.split("_")[2]
        self.run(self._new_key(org))
        assert self.admin("DELETE", f"/keys/{key_id}").status_code == 200
        self.revoked.append(old)

    @precondition(lambda self: self.revoked)
    @rule(pick=picks)
    def use_a_revoked_key(self, pick: int) -> None:
        old = self.revoked[pick % len(self.revoked)]
        answer = self.run(old("GET", f"/management/v1/orgs/{ORGS[0]}/models"))
        assert answer.status_code == 401

    @rule(org=orgs)
    def look_at_the_other_org(self, org: str) -> None:
        """T2: whatever is another's answers 404, and no list tells of it."""
        other = next(name for name in ORGS if name != org)
        for path in (f"/orgs/{other}/models", f"/orgs/{other}/models/{ARCH}/versions/1"):
            assert self.call(org, "GET", path).status_code == 404
        listed = self.call(org, "GET", "/deployments").json()["deployments"]
        assert {one["id"] for one in listed} == {name for owner, name in self.made if owner == org}


@pytest.fixture
def play(database_url: str, database_schema: str, tmp_path: Path) -> Callable[[], ApiPlay]:
    class Placed(ApiPlay):
        pass

    Placed.database_url = database_url
    Placed.database_schema = database_schema
    Placed.directory = tmp_path
    return Placed


def test_no_order_of_calls_breaks_what_must_hold(play: Callable[[], ApiPlay]) -> None:
    run_state_machine_as_test(
        play,
        settings=settings(
            max_examples=10,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
