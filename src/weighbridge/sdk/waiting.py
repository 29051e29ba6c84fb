"""Waiting for a weight sync or a rollout to end, by asking again; nothing here changes the server."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from weighbridge.sdk.client import Client
from weighbridge.sdk.errors import (
    AnswerError,
    ConnectionFailedError,
    RateLimitError,
    RolloutFailedError,
    ServerError,
    SyncFailedError,
    WaitTimeoutError,
)
from weighbridge.sdk.management.deployments import DeploymentDetail
from weighbridge.sdk.types import Deployment, ModelVersion, VersionName

POLL_FIRST_S = 0.2
POLL_LAST_S = 2.0
POLL_GROWTH = 1.3
OUTAGE_MAX_S = 60.0
"""A wait outlives a restart of the server, but not a longer absence."""

_Answer = TypeVar("_Answer")

SYNC_TIMEOUT_S = 6 * 3600.0
ROLLOUT_TIMEOUT_S = 3600.0


def wait_for_sync(
    client: Client,
    name: VersionName | str,
    *,
    on_progress: Callable[[ModelVersion], None] | None = None,
    timeout_s: float = SYNC_TIMEOUT_S,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ModelVersion:
    """The version once it can be deployed; SyncFailedError when it never can, WaitTimeoutError when late."""
    for version in _polled(lambda: client.versions.get(name), str(name), timeout_s, now, sleep):
        if on_progress is not None:
            on_progress(version)
        if version.succeeded:
            return version
        if version.failed:
            raise SyncFailedError(
                f"The weight sync of {version.name} ended as {version.sync_status}: "
                f"{version.error_message or 'the server gives no reason'}",
                code=version.error_code,
            )
    raise WaitTimeoutError(
        f"{name} is not synced after {timeout_s:g} s; the sync goes on, ask again for its status."
    )


def wait_for_deployment(
    client: Client,
    endpoint_id: str,
    deployment_id: str,
    *,
    on_progress: Callable[[Deployment], None] | None = None,
    timeout_s: float = ROLLOUT_TIMEOUT_S,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Deployment:
    """The deployment once every replica serves it; RolloutFailedError when it ended otherwise.

    Follows the endpoint's status, the call that the hosted API has as well (wire.md §1.2, operation 9).
    """

    def ask() -> Deployment:
        for deployment in client.endpoints.get(endpoint_id).deployed_models:
            if deployment.id == deployment_id:
                return deployment
        raise AnswerError(f"Endpoint {endpoint_id} does not list deployment {deployment_id}.")

    for deployment in _polled(ask, f"deployment {deployment_id}", timeout_s, now, sleep):
        if on_progress is not None:
            on_progress(deployment)
        if deployment.succeeded:
            return deployment
        if deployment.failed:
            reason = deployment.error_message or deployment.reason or "the server gives no reason"
            raise RolloutFailedError(
                f"Deployment {deployment_id} of {endpoint_id} ended as {deployment.state}: {reason}"
            )
    raise WaitTimeoutError(
        f"Deployment {deployment_id} of {endpoint_id} is not finished after {timeout_s:g} s; "
        "the rollout goes on, ask the endpoint for its status."
    )


def follow_deployment(
    client: Client,
    deployment_id: str,
    *,
    timeout_s: float = ROLLOUT_TIMEOUT_S,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[DeploymentDetail]:
    """A deployment with its endpoint's replicas, again and again until it has ended; WaitTimeoutError when late."""

    def ask() -> DeploymentDetail:
        return client.deployments.detail(deployment_id)

    for detail in _polled(ask, f"deployment {deployment_id}", timeout_s, now, sleep):
        yield detail
        if detail.deployment.final:
            return
    raise WaitTimeoutError(
        f"Deployment {deployment_id} is not finished after {timeout_s:g} s; the rollout goes on."
    )


def _polled(
    ask: Callable[[], _Answer],
    what: str,
    timeout_s: float,
    now: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[_Answer]:
    """Answers at growing intervals until `timeout_s` has passed; at least one, or the error."""
    deadline = now() + timeout_s
    pause_s = POLL_FIRST_S
    answered_at = now()
    while True:
        try:
            answer = ask()
        except (ConnectionFailedError, ServerError, RateLimitError) as error:
            if now() - answered_at > min(OUTAGE_MAX_S, timeout_s):
                raise
            if now() >= deadline:
                raise WaitTimeoutError(f"No word of {what}: {error.message}") from error
        else:
            answered_at = now()
            yield answer
        if now() >= deadline:
            return
        sleep(min(pause_s, max(0.0, deadline - now())))
        pause_s = min(pause_s * POLL_GROWTH, POLL_LAST_S)
