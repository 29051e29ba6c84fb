"""A bucket on a stub that a test makes misbehave."""

from collections.abc import Iterator

import pytest
from stub_site import CONTENT, KEY

from s3_stub import S3Stub, running_stub


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Stub]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "own")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
    with running_stub() as server:
        server.objects[KEY] = CONTENT
        yield server
