"""Calls about deployments, and the answers that say more than a deployed model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from weighbridge.sdk.fields import Fields
from weighbridge.sdk.resources import Caller, segment
from weighbridge.sdk.types import Deployment

PATH = "/management/v1/deployments"


@dataclass(frozen=True, slots=True)
class ReplicaCount:
    """How many replicas of one version are in one state."""

    version_id: int
    state: str
    count: int


@dataclass(frozen=True, slots=True)
class DeploymentDetail:
    """A deployment, the version it started from, and its endpoint's replicas; times are unix seconds.

    `replicas` is None where the server does not tell them.
    """

    deployment: Deployment
    base_version_id: int | None
    started: int | None
    finished: int | None
    replicas: tuple[ReplicaCount, ...] | None
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "DeploymentDetail":
        answer = Fields(body, "a deployment")
        counts = answer.parts("replicas", "a count of replicas")
        return cls(
            deployment=Deployment.read(body),
            base_version_id=answer.integer_or_none("base_version_id"),
            started=answer.integer_or_none("started"),
            finished=answer.integer_or_none("finished"),
            replicas=tuple(
                ReplicaCount(one.integer("version_id"), one.text("state"), one.integer("count"))
                for one in counts
            )
            if "replicas" in answer.raw
            else None,
            raw=answer.raw,
        )


@dataclass(frozen=True, slots=True)
class DeploymentPage:
    """Newest first; `next_page_token` is None on the last page."""

    deployments: tuple[Deployment, ...]
    next_page_token: str | None
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "DeploymentPage":
        answer = Fields(body, "the deployments")
        return cls(
            tuple(Deployment.read(item.raw) for item in answer.parts("deployments", "one")),
            answer.text_or_none("next_page_token"),
            answer.raw,
        )


class Deployments:
    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def page(
        self,
        *,
        endpoint_id: str | None = None,
        statuses: Sequence[str] = (),
        page_size: int | None = None,
        page_token: str | None = None,
    ) -> DeploymentPage:
        """One page of the org's deployments; of one endpoint, or in some statuses."""
        query: dict[str, str | Sequence[str]] = {}
        if endpoint_id is not None:
            query["endpoint_id"] = endpoint_id
        if statuses:
            query["status"] = list(statuses)
        if page_size is not None:
            query["page_size"] = str(page_size)
        if page_token is not None:
            query["page_token"] = page_token
        return DeploymentPage.read(self._caller.get(PATH, **query))

    def list(
        self, *, endpoint_id: str | None = None, statuses: Sequence[str] = ()
    ) -> Iterator[Deployment]:
        """All of them, newest first, asked for page by page."""
        token: str | None = None
        while True:
            found = self.page(endpoint_id=endpoint_id, statuses=statuses, page_token=token)
            yield from found.deployments
            token = found.next_page_token
            if token is None:
                return

    def get(self, deployment_id: str) -> Deployment:
        return self.detail(deployment_id).deployment

    def detail(self, deployment_id: str) -> DeploymentDetail:
        """A deployment with the replicas of its endpoint."""
        return DeploymentDetail.read(self._caller.get(f"{PATH}/{segment(deployment_id)}"))

    def promote(self, deployment_id: str) -> Deployment:
        """Let a canary's rollout go on to all replicas; asking again changes nothing.

        ConflictError when it is no canary, or not under way.
        """
        return Deployment.read(self._caller.post(f"{PATH}/{segment(deployment_id)}:promote"))

    def cancel(self, deployment_id: str) -> Deployment:
        """Ask an unfinished rollout to return to what served before; asking again changes nothing.

        ConflictError when it has ended already, or goes back for another reason.
        """
        return Deployment.read(self._caller.post(f"{PATH}/{segment(deployment_id)}:cancel"))
