"""Keys of a whole installation: revoked at once, shown once, and in no log and no process list."""

import time
from pathlib import Path

import pytest
from installation import ORG, Installation, processes_of, until

from weighbridge.routing.tokens import replica_token
from weighbridge.sdk import AuthenticationError, Client

pytestmark = pytest.mark.system

REVOKED_WITHIN_S = 1.0


@pytest.mark.parametrize("kind", ["inference", "management", "both"])
def test_a_revoked_key_is_refused_within_a_second(shared_site: Installation, kind: str) -> None:
    with shared_site.client() as operator:
        made = operator.admin.keys.create(kind, name="short-lived", org_name=ORG)
        with Client(shared_site.url, made.key, inference_key=made.key, retries_max=0) as client:
            calls = [lambda: client.models.list(ORG)] * (kind != "inference")
            calls += [lambda: shared_site.say(client)] * (kind != "management")
            for call in calls:
                until(lambda call=call: was_let_in(call), 5, "the new key's first use")
            operator.admin.keys.revoke(made.id)
            began_s = time.monotonic()
            for call in calls:
                until(lambda call=call: not was_let_in(call), 5, "the refusal")
            assert time.monotonic() - began_s < REVOKED_WITHIN_S


def was_let_in(call) -> bool:
    try:
        call()
    except AuthenticationError:
        return False
    return True


def test_no_secret_is_in_a_log_or_in_a_process_list(shared_site: Installation) -> None:
    with shared_site.client() as client:
        assert shared_site.say(client)
        replicas = [replica.id for replica in client.admin.replicas.list()]
    pepper = (shared_site.root / "data/secrets/pepper").read_bytes()
    secrets = {
        "the admin key": shared_site.admin_key,
        "a management key": shared_site.management_key,
        "an inference key": shared_site.inference_key,
        "the cloud's secret": shared_site.s3.environment["AWS_SECRET_ACCESS_KEY"],
        "the pepper": pepper.hex(),
        **{f"the token of {name}": replica_token(pepper, name) for name in replicas},
    }
    assert len(secrets) > 5
    places: dict[Path | int, str] = {**shared_site.logs(), **processes_of(shared_site.root)}
    assert {"control.log", "gateway.log"} <= {p.name for p in places if isinstance(p, Path)}
    found = [
        (what, place)
        for place, text in places.items()
        for what, secret in secrets.items()
        if secret in text
    ]
    assert found == []
