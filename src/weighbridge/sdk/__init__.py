"""Python client of a Weighbridge server; imports nothing else of the package. Synchronous only."""

from weighbridge.sdk.admin_types import ApiKey, Architecture, EndpointShape, Org, Replica, Status
from weighbridge.sdk.chat import ChatAnswer, ChatChunk, ChatStream
from weighbridge.sdk.client import Client
from weighbridge.sdk.errors import (
    AnswerError,
    AuthenticationError,
    BadRequestError,
    ClientError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RolloutFailedError,
    ServerError,
    StatusError,
    StreamError,
    SyncFailedError,
    UnavailableError,
    WaitTimeoutError,
)
from weighbridge.sdk.types import (
    Aliases,
    Deployment,
    Endpoint,
    EndpointSummary,
    ModelVersion,
    SyncProgress,
    VersionName,
)
from weighbridge.sdk.usage.limits import Limits
from weighbridge.sdk.usage.reports import UsageReport, UsageRow
from weighbridge.sdk.waiting import wait_for_deployment, wait_for_sync

__all__ = [
    "Aliases",
    "AnswerError",
    "ApiKey",
    "Architecture",
    "AuthenticationError",
    "BadRequestError",
    "ChatAnswer",
    "ChatChunk",
    "ChatStream",
    "Client",
    "ClientError",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "Deployment",
    "Endpoint",
    "EndpointShape",
    "EndpointSummary",
    "Limits",
    "ModelVersion",
    "NotFoundError",
    "Org",
    "PermissionDeniedError",
    "RateLimitError",
    "Replica",
    "RolloutFailedError",
    "ServerError",
    "Status",
    "StatusError",
    "StreamError",
    "SyncFailedError",
    "SyncProgress",
    "UnavailableError",
    "UsageReport",
    "UsageRow",
    "VersionName",
    "WaitTimeoutError",
    "wait_for_deployment",
    "wait_for_sync",
]
