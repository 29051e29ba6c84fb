"""One request after the other within one time, and the findings they leave."""

import http.client
from collections.abc import Callable
from typing import Any, TypeVar

import urllib3.exceptions
from botocore.exceptions import BotoCoreError, ClientError

from weighbridge.ingest.doctor.model import LookAlike, Step
from weighbridge.ingest.s3.faults import UNREADABLE, SourceError, translate
from weighbridge.ingest.s3.policies import Reader, Statement

PROBE_S = 12.0
LISTED_MAX = 1_000
"""Objects of one page: enough to see what kind of folder it is."""

BUCKET_POLICY = "the policy of the bucket"
TRUST_POLICY = "the trust policy of the role"
KEY_POLICY = "the policy of the KMS key"

_FAULTS = (
    ClientError,
    BotoCoreError,
    SourceError,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)

Result = TypeVar("Result")


class TimeIsUpError(Exception):
    """The probes together took PROBE_S."""


class Asking:
    """Asks S3 and STS for one reader, each thing once; collects `steps` and `look_alikes`. Blocking."""

    def __init__(self, reader: Reader, now: Callable[[], float]) -> None:
        self._now = now
        self._began = now()
        self._deadline = self._began + PROBE_S
        self.reader = reader
        self.client: Any = None  # botocore builds client classes at run time
        self.steps: list[Step] = []
        self.look_alikes: list[LookAlike] = []

    def spent_s(self) -> float:
        return self._now() - self._began

    def ask(self, operation: str, key: str | None, call: Callable[[Any], Result]) -> Result:
        """What `call` of the client returns; SourceError, or TimeIsUpError before a request that would be late."""
        if self._now() >= self._deadline:
            raise TimeIsUpError
        try:
            return call(self.client)
        except (*_FAULTS, *UNREADABLE) as error:
            raise translate(error, self.reader, operation, key) from error

    def page(self, prefix: str, *, pays: bool = False) -> Any:
        """The first page of what lies directly under `prefix`."""
        more = {"RequestPayer": "requester"} if pays else {}
        return self.ask(
            "ListObjectsV2",
            None,
            lambda client: client.list_objects_v2(
                Bucket=self.reader.source.bucket,
                Prefix=prefix,
                Delimiter="/",
                MaxKeys=LISTED_MAX,
                **more,
            ),
        )

    def requester_pays(self, paid: Callable[[], object]) -> None:
        """A refusal may only mean that the reader would have to pay: ask once more, paying for one request."""
        try:
            paid()
        except SourceError:
            return
        message = (
            f"The bucket {self.reader.source.bucket} is a Requester Pays bucket, which refuses whoever does not "
            "offer to pay. Weighbridge does not: turn Requester Pays off, or copy the weights to another bucket."
        )
        self.look_alikes.append(LookAlike("REQUESTER_PAYS", message))

    def passed(self, name: str, message: str) -> None:
        self.steps.append(Step(name, True, message))

    def warned(
        self, name: str, code: str, message: str, statement: Statement, goes_into: str
    ) -> None:
        self.steps.append(Step(name, True, message, code, statement, goes_into))

    def failed(
        self,
        name: str,
        error: SourceError,
        statement: Statement | None = None,
        goes_into: str | None = None,
    ) -> None:
        self.steps.append(Step(name, False, error.message, error.code, statement, goes_into))
