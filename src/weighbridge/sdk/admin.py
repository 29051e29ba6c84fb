"""The operator's calls: orgs, keys, architectures, the shape of endpoints, replicas, nodes, status."""

from collections.abc import Mapping, Sequence

from weighbridge.sdk.admin_types import (
    ApiKey,
    Architecture,
    Bucket,
    EndpointShape,
    Org,
    QueuePolicy,
    Replica,
    S3Setup,
    Status,
    WeightStore,
)
from weighbridge.sdk.fields import Fields
from weighbridge.sdk.probes.resource import Probes
from weighbridge.sdk.resources import Caller, segment
from weighbridge.sdk.transport import Json
from weighbridge.sdk.usage.reports import Usage


class Orgs:
    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def create(self, org_name: str, *, s3_role_arn: str | None = None) -> Org:
        body = _present({"org_name": org_name, "s3_role_arn": s3_role_arn})
        return Org.read(self._caller.post("/admin/v1/orgs", body))

    def list(self) -> Sequence[Org]:
        answer = Fields(self._caller.get("/admin/v1/orgs"), "the orgs")
        return tuple(Org.read(item.raw) for item in answer.parts("orgs", "an org"))

    def get(self, org_name: str) -> Org:
        return Org.read(self._caller.get(f"/admin/v1/orgs/{segment(org_name)}"))

    def update(self, org_name: str, *, s3_role_arn: str | None) -> Org:
        """Set the role that reads the org's buckets; None returns to the server's own."""
        body: Json = {"s3_role_arn": s3_role_arn}
        return Org.read(self._caller.patch(f"/admin/v1/orgs/{segment(org_name)}", body))

    def s3_setup(
        self, org_name: str, bucket: str, *, prefix: str = "", kms_key_arn: str | None = None
    ) -> S3Setup:
        """The policies that let the org's uploads read a bucket, ready to paste."""
        query = {"bucket": bucket, "prefix": prefix}
        if kms_key_arn is not None:
            query["kms_key_arn"] = kms_key_arn
        path = f"/admin/v1/orgs/{segment(org_name)}/s3-setup"
        return S3Setup.read(self._caller.get(path, **query))

    def buckets(self) -> Sequence[Bucket]:
        """The buckets that were read, with the org each is bound to."""
        answer = Fields(self._caller.get("/admin/v1/buckets"), "the buckets")
        return tuple(Bucket.read(item.raw) for item in answer.parts("buckets", "a bucket"))

    def release_bucket(self, bucket: str) -> Json:
        """Take a bucket off its org."""
        path = f"/admin/v1/buckets/{segment(bucket)}"
        return Fields(self._caller.delete(path), "the release").raw

    def limit_keys(self, org_name: str, limits: Mapping[str, int | None]) -> Org:
        """Change what is named of the limits for each key without its own; None takes one away."""
        body: Json = {"key_limits": dict(limits)}
        return Org.read(self._caller.patch(f"/admin/v1/orgs/{segment(org_name)}", body))


class Keys:
    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def create(
        self, kind: str, *, name: str, org_name: str | None = None, expires_in_s: int | None = None
    ) -> ApiKey:
        """`kind` is management, inference, both or admin; only this answer carries `key`."""
        body = _present(
            {"kind": kind, "name": name, "org_name": org_name, "expires_in_s": expires_in_s}
        )
        return ApiKey.read(self._caller.post("/admin/v1/keys", body))

    def list(self, org_name: str | None = None) -> Sequence[ApiKey]:
        query = {} if org_name is None else {"org_name": org_name}
        answer = Fields(self._caller.get("/admin/v1/keys", **query), "the keys")
        return tuple(ApiKey.read(item.raw) for item in answer.parts("keys", "an API key"))

    def limit(self, key_id: str, limits: Mapping[str, int | None]) -> ApiKey:
        """Change what is named of a key's limits (the fields of `Limits`); None takes one away."""
        body: Json = {"limits": dict(limits)}
        return ApiKey.read(self._caller.patch(f"/admin/v1/keys/{segment(key_id)}", body))

    def revoke(self, key_id: str) -> ApiKey:
        return ApiKey.read(self._caller.delete(f"/admin/v1/keys/{segment(key_id)}"))


class Architectures:
    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def register(
        self,
        model_arch_id: str,
        source: str,
        *,
        engine: Mapping[str, object] | None = None,
        org_names: Sequence[str] = (),
    ) -> Architecture:
        """`source` is a base model: a directory on the server's machine, or s3://bucket/prefix."""
        body: dict[str, object] = {"model_arch_id": model_arch_id, "source": source}
        if engine:
            body["engine"] = dict(engine)
        if org_names:
            body["org_names"] = list(org_names)
        return Architecture.read(self._caller.post("/admin/v1/architectures", body))

    def list(self) -> Sequence[Architecture]:
        answer = Fields(self._caller.get("/admin/v1/architectures"), "the architectures")
        items = answer.parts("architectures", "a model architecture")
        return tuple(Architecture.read(item.raw) for item in items)

    def get(self, model_arch_id: str) -> Architecture:
        path = f"/admin/v1/architectures/{segment(model_arch_id)}"
        return Architecture.read(self._caller.get(path))

    def delete(self, model_arch_id: str) -> Json:
        path = f"/admin/v1/architectures/{segment(model_arch_id)}"
        return Fields(self._caller.delete(path), "the deletion").raw


class EndpointShapes:
    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def create(
        self,
        endpoint_id: str,
        *,
        org_name: str,
        model_arch_id: str,
        replicas: int = 1,
        max_unavailable: int = 0,
        max_surge: int = 1,
        allow_downtime: bool = False,
        queue_policy: QueuePolicy = QueuePolicy.FIFO,
    ) -> EndpointShape:
        body: dict[str, object] = {
            "endpoint_id": endpoint_id,
            "org_name": org_name,
            "model_arch_id": model_arch_id,
            "replicas": replicas,
            "max_unavailable": max_unavailable,
            "max_surge": max_surge,
        }
        if allow_downtime:
            body["allow_downtime"] = True
        if queue_policy is not QueuePolicy.FIFO:
            body["queue_policy"] = queue_policy.value
        return EndpointShape.read(self._caller.post("/admin/v1/endpoints", body))

    def list(self) -> Sequence[EndpointShape]:
        answer = Fields(self._caller.get("/admin/v1/endpoints"), "the endpoints")
        items = answer.parts("endpoints", "an endpoint")
        return tuple(EndpointShape.read(item.raw) for item in items)

    def get(self, endpoint_id: str) -> EndpointShape:
        return EndpointShape.read(self._caller.get(_endpoint_path(endpoint_id)))

    def update(
        self,
        endpoint_id: str,
        *,
        replicas: int | None = None,
        max_unavailable: int | None = None,
        max_surge: int | None = None,
        replicas_max: int | None = None,
        allow_downtime: bool | None = None,
        queue_policy: QueuePolicy | None = None,
        limits: Mapping[str, int | None] | None = None,
        gateway: Mapping[str, object] | None = None,
        gate: Mapping[str, float | None] | None = None,
    ) -> EndpointShape:
        """Change what is given, keep the rest; of `limits`, None takes one away.

        `replicas_max` lets the endpoint's org scale it so far; 0 takes that away.
        `gateway` names what changes of `hold_s` (None: the server's own), `affinity` and `public`,
        `gate` what changes of `admin_types.GATE_LIMITS` (None: the server's own).
        """
        body = _present(
            {
                "replicas": replicas,
                "max_unavailable": max_unavailable,
                "max_surge": max_surge,
                "allow_downtime": allow_downtime,
                "queue_policy": None if queue_policy is None else queue_policy.value,
                "limits": None if limits is None else dict(limits),
                "gateway": None if gateway is None else dict(gateway),
                "gate": None if gate is None else dict(gate),
            }
        )
        if replicas_max is not None:
            body = {**body, "replicas_max": replicas_max or None}
        return EndpointShape.read(self._caller.patch(_endpoint_path(endpoint_id), body))

    def delete(self, endpoint_id: str) -> Json:
        return Fields(self._caller.delete(_endpoint_path(endpoint_id)), "the deletion").raw


class Replicas:
    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self, endpoint_id: str | None = None) -> Sequence[Replica]:
        query = {} if endpoint_id is None else {"endpoint_id": endpoint_id}
        answer = Fields(self._caller.get("/admin/v1/replicas", **query), "the replicas")
        return tuple(Replica.read(item.raw) for item in answer.parts("replicas", "a replica"))

    def logs(self, replica_id: str, *, tail_bytes: int = 65536) -> str:
        """The last bytes a replica's engine wrote."""
        path = f"/admin/v1/replicas/{segment(replica_id)}/logs"
        return Fields(self._caller.get(path, tail_bytes=str(tail_bytes)), "the logs").text("logs")


class Store:
    """The weight store."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def get(self) -> WeightStore:
        return WeightStore.read(self._caller.get("/admin/v1/store"))

    def verify(self) -> WeightStore:
        """Make every blob due to be hashed again; the server does so in the background."""
        return WeightStore.read(self._caller.post("/admin/v1/store:verify", {}))

    def collect(self, *, dry_run: bool = False) -> Json:
        """Remove what nobody needs, or only say what that would be: `blobs` and `size_bytes`."""
        answer = self._caller.post("/admin/v1/store:collect", {"dry_run": dry_run})
        return Fields(answer, "the collection").raw


class Admin:
    """Everything here needs an admin key."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.orgs = Orgs(caller)
        self.keys = Keys(caller)
        self.architectures = Architectures(caller)
        self.endpoints = EndpointShapes(caller)
        self.replicas = Replicas(caller)
        self.store = Store(caller)
        self.usage = Usage(caller, "/admin/v1/usage")
        self.probes = Probes(caller)

    def nodes(self) -> Sequence[Json]:
        answer = Fields(self._caller.get("/admin/v1/nodes"), "the nodes")
        return tuple(item.raw for item in answer.parts("nodes", "a node"))

    def status(self) -> Status:
        return Status.read(self._caller.get("/admin/v1/status"))


def _endpoint_path(endpoint_id: str) -> str:
    return f"/admin/v1/endpoints/{segment(endpoint_id)}"


def _present(members: Mapping[str, object]) -> Json:
    return {name: value for name, value in members.items() if value is not None}
