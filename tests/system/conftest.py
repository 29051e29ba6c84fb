"""One installation for all tests that leave it as they found it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from installation import Installation, installed

from s3 import running_s3


@pytest.fixture(scope="session")
def shared_site(make_public_directory: Callable[[], Path]) -> Iterator[Installation]:
    """Serves version 1 on acme-chat; one for each worker whose tests ask for it."""
    with running_s3() as s3, installed(make_public_directory(), s3) as site:
        site.prepare()
        site.deploy(1)
        yield site
