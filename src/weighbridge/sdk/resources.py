"""The management calls: architectures, uploads, versions and endpoints of an org."""

from collections.abc import Callable, Sequence
from urllib.parse import quote

from weighbridge.sdk.errors import ClientError
from weighbridge.sdk.fields import Fields
from weighbridge.sdk.management.draining import ForcedDrains
from weighbridge.sdk.management.forecast import Forecast
from weighbridge.sdk.transport import Json, Transport
from weighbridge.sdk.types import (
    AccessReport,
    Aliases,
    Deployment,
    Endpoint,
    EndpointSummary,
    ModelVersion,
    Scaling,
    VersionName,
    VersionsDiff,
)


class Caller:
    """A transport with the key its calls are made with; the key is asked for at the first call."""

    def __init__(self, transport: Transport, key: Callable[[], str]) -> None:
        self._transport = transport
        self._key = key

    def get(self, path: str, **query: str | Sequence[str]) -> object:
        return self._transport.request("GET", path, key=self._key(), query=query or None)

    def post(
        self, path: str, body: Json | None = None, *, idempotency_key: str | None = None
    ) -> object:
        """Without an idempotency key never repeated where a first try may have been carried out."""
        return self._transport.request(
            "POST",
            path,
            key=self._key(),
            body=body,
            idempotency_key=idempotency_key,
            repeatable=idempotency_key is not None,
        )

    def put(self, path: str, body: Json) -> object:
        return self._transport.request("PUT", path, key=self._key(), body=body)

    def patch(self, path: str, body: Json) -> object:
        return self._transport.request("PATCH", path, key=self._key(), body=body)

    def delete(self, path: str) -> object:
        return self._transport.request("DELETE", path, key=self._key())


def segment(value: str) -> str:
    """A value as one segment of a path."""
    return quote(value, safe="")


class Models:
    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self, org_name: str) -> Sequence[str]:
        """The ids of the model architectures an org may upload for."""
        answer = self._caller.get(f"/management/v1/orgs/{segment(org_name)}/models")
        return Fields(answer, "the model architectures").texts("model_architectures")

    def upload(
        self,
        org_name: str,
        model_arch_id: str,
        weight_uri: str,
        *,
        version_aliases: Sequence[str] = (),
        system_fingerprint_suffix: str | None = None,
        idempotency_key: str | None = None,
    ) -> ModelVersion:
        """Ask for a new version; answers at once, `waiting.wait_for_sync` waits for the copy.

        With an `idempotency_key` of yours (a day long, per request) the call may be repeated after a lost
        answer; a server that does not know the header makes a version each time.
        """
        model: dict[str, object] = {"weight_uri": weight_uri}
        if version_aliases:
            model["version_aliases"] = list(version_aliases)
        if system_fingerprint_suffix is not None:
            model["system_fingerprint_suffix"] = system_fingerprint_suffix
        path = f"/management/v1/orgs/{segment(org_name)}/models:upload"
        body: Json = {"model_arch_id": model_arch_id, "model": model}
        return ModelVersion.read(self._caller.post(path, body, idempotency_key=idempotency_key))

    def explain_access(
        self, org_name: str, weight_uri: str, *, model_arch_id: str | None = None
    ) -> AccessReport:
        """Probe each step of reading a folder, and with an architecture its headers; uploads nothing."""
        body: dict[str, object] = {"weight_uri": weight_uri}
        if model_arch_id is not None:
            body["model_arch_id"] = model_arch_id
        path = f"/management/v1/orgs/{segment(org_name)}/models:explainAccess"
        return AccessReport.read(self._caller.post(path, body))


class Versions:
    """`name` is a full resource name, or a VersionName; its last part may be a number or an alias."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self, org_name: str, model_arch_id: str) -> Sequence[ModelVersion]:
        path = f"/management/v1/orgs/{segment(org_name)}/models/{segment(model_arch_id)}/versions"
        answer = Fields(self._caller.get(path), "the model versions")
        return tuple(
            ModelVersion.read(item.raw) for item in answer.parts("model_versions", "a version")
        )

    def get(self, name: VersionName | str) -> ModelVersion:
        return ModelVersion.read(self._caller.get(_version_path(name)))

    def diff(self, before: VersionName | str, after: VersionName | str) -> VersionsDiff:
        """In which tensors two versions of one architecture differ; UnavailableError while they are hashed."""
        first = VersionName.parse(before) if isinstance(before, str) else before
        second = VersionName.parse(after) if isinstance(after, str) else after
        if (first.org_name, first.model_arch_id) != (second.org_name, second.model_arch_id):
            raise ClientError(
                "Two versions are compared within one architecture.", code="invalid_name"
            )
        path = f"/management/v1/orgs/{segment(first.org_name)}/models/{segment(first.model_arch_id)}/versions:diff"
        query = {"from": first.version, "to": second.version}
        return VersionsDiff.read(self._caller.get(path, **query))

    def delete(self, name: VersionName | str) -> Json:
        """Refused with ConflictError while an endpoint needs the version.

        Repeated after a lost answer; NotFoundError may then mean that the first try was carried out.
        """
        return Fields(self._caller.delete(_version_path(name)), "the deletion").raw

    def set_aliases(self, name: VersionName | str, version_aliases: Sequence[str]) -> Aliases:
        """Replace all aliases of the version; an empty list clears them."""
        body: Json = {"version_aliases": list(version_aliases)}
        return Aliases.read(self._caller.patch(_version_path(name), body))


class Endpoints:
    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self, org_name: str) -> Sequence[EndpointSummary]:
        answer = self._caller.get(f"/management/v1/orgs/{segment(org_name)}/endpoints")
        items = Fields(answer, "the endpoints").parts("endpoints", "an endpoint")
        return tuple(EndpointSummary.read(item.raw) for item in items)

    def get(self, endpoint_id: str) -> Endpoint:
        return Endpoint.read(self._caller.get(_endpoint_path(endpoint_id)))

    def deploy(
        self,
        endpoint_id: str,
        model: VersionName | str,
        *,
        traffic_percent: int | None = None,
        idempotency_key: str | None = None,
    ) -> Deployment:
        """Ask for a rollout; answers at once, `waiting.wait_for_deployment` waits for its end.

        With `traffic_percent` (1 to 99) it stops at that share of replicas and requests until
        `deployments.promote` or `deployments.cancel`. `idempotency_key` as in `Models.upload`.
        """
        body: dict[str, object] = {"model": str(model)}
        if traffic_percent is not None:
            body["traffic_percent"] = traffic_percent
        answer = self._caller.post(
            f"{_endpoint_path(endpoint_id)}:deployModel",
            body,
            idempotency_key=idempotency_key,
        )
        return Deployment.read(answer)

    def forecast(
        self, endpoint_id: str, model: VersionName | str, *, traffic_percent: int | None = None
    ) -> Forecast:
        """What `deploy` would do, changing nothing; raises what it would raise."""
        body: dict[str, object] = {"model": str(model), "dry_run": True}
        if traffic_percent is not None:
            body["traffic_percent"] = traffic_percent
        return Forecast.read(self._caller.post(f"{_endpoint_path(endpoint_id)}:deployModel", body))

    def rollback(self, endpoint_id: str, *, idempotency_key: str | None = None) -> Deployment:
        """Ask for a rollout to the version that served before the present one."""
        path = f"{_endpoint_path(endpoint_id)}:rollback"
        return Deployment.read(self._caller.post(path, idempotency_key=idempotency_key))

    def scale(self, endpoint_id: str, replicas: int) -> Scaling:
        """Change the number of replicas; PermissionDeniedError where only the operator may."""
        path = f"{_endpoint_path(endpoint_id)}:scale"
        return Scaling.read(self._caller.post(path, {"replicas": replicas}))

    def force_drain(self, endpoint_id: str, *, after_s: float = 0.0) -> ForcedDrains:
        """Cut what the replicas that drain now still stream, after so many seconds."""
        path = f"{_endpoint_path(endpoint_id)}:forceDrain"
        return ForcedDrains.read(self._caller.post(path, {"after_s": after_s}))


def _version_path(name: VersionName | str) -> str:
    parsed = VersionName.parse(name) if isinstance(name, str) else name
    return (
        f"/management/v1/orgs/{segment(parsed.org_name)}/models/{segment(parsed.model_arch_id)}"
        f"/versions/{segment(parsed.version)}"
    )


def _endpoint_path(endpoint_id: str) -> str:
    return f"/management/v1/endpoints/{segment(endpoint_id)}"
