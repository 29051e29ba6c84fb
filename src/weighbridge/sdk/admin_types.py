"""Answers of the admin API as values; `raw` keeps the members a class does not name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from weighbridge.sdk.fields import Fields
from weighbridge.sdk.usage.limits import Limits


class QueuePolicy(StrEnum):
    """What a new deployment means for those that wait on its endpoint: nothing, or their end."""

    FIFO = "fifo"
    LATEST_WINS = "latest_wins"


@dataclass(frozen=True, slots=True)
class Org:
    """`s3_external_id` belongs in the trust policy of the customer's role."""

    id: str
    org_name: str
    s3_external_id: str
    s3_role_arn: str | None
    created: int
    key_limits: Limits
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "Org":
        answer = Fields(body, "an org")
        return cls(
            id=answer.text("id"),
            org_name=answer.text("org_name"),
            s3_external_id=answer.text("s3_external_id"),
            s3_role_arn=answer.text_or_none("s3_role_arn"),
            created=answer.integer("created"),
            key_limits=Limits.read(answer, "key_limits"),
            raw=answer.raw,
        )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """`key` is the secret itself: present once, in the answer to its creation; never printed by repr."""

    id: str
    kind: str
    org_name: str | None
    name: str
    prefix: str
    created: int
    expires: int | None
    revoked: int | None
    limits: Limits
    key: str | None = field(repr=False)
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "ApiKey":
        answer = Fields(body, "an API key")
        return cls(
            id=answer.text("id"),
            kind=answer.text("kind"),
            org_name=answer.text_or_none("org_name"),
            name=answer.text("name"),
            prefix=answer.text("prefix"),
            created=answer.integer("created"),
            expires=answer.integer_or_none("expires"),
            revoked=answer.integer_or_none("revoked"),
            limits=Limits.read(answer, "limits"),
            key=answer.text_or_none("key"),
            raw=answer.raw,
        )


@dataclass(frozen=True, slots=True)
class Architecture:
    """`tensors` and `parameters` are counts; `org_names` empty means every org may use it."""

    model_arch_id: str
    source: str
    digest: str
    tensors: int
    parameters: int
    engine: Mapping[str, object]
    org_names: tuple[str, ...]
    created: int
    updated: int
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "Architecture":
        answer = Fields(body, "a model architecture")
        engine = answer.part_or_none("engine")
        return cls(
            model_arch_id=answer.text("model_arch_id"),
            source=answer.text("source"),
            digest=answer.text("digest"),
            tensors=answer.integer("tensors"),
            parameters=answer.integer("parameters"),
            engine=engine.raw if engine is not None else {},
            org_names=answer.texts("org_names"),
            created=answer.integer("created"),
            updated=answer.integer("updated"),
            raw=answer.raw,
        )


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """How the gateway treats an endpoint's requests; `hold_s` None: as long as the server holds by itself."""

    hold_s: float | None
    affinity: str
    public: bool

    @classmethod
    def read(cls, answer: Fields, name: str) -> "GatewayOptions":
        options = answer.part_or_none(name)
        if options is None:
            return cls(None, "off", public=False)
        affinity = options.text_or_none("affinity") or "off"
        return cls(options.number_or_none("hold_s"), affinity, options.flag("public"))


GATE_LIMITS = (
    "requests_min",
    "errors_share",
    "errors_ratio",
    "empty_share",
    "empty_ratio",
    "ttft_min_s",
    "ttft_ratio",
    "ttft_max_s",
)


def _gate(answer: Fields) -> Mapping[str, float | None]:
    gate = answer.part_or_none("gate")
    return {name: None if gate is None else gate.number_or_none(name) for name in GATE_LIMITS}


@dataclass(frozen=True, slots=True)
class EndpointShape:
    """An endpoint as the operator sees it. `serving` is the version that answers, if any does.

    `gate` are its own limits of the gate by `GATE_LIMITS`; None: the server's.
    """

    endpoint_id: str
    org_name: str
    model_arch_id: str
    replicas: int
    max_unavailable: int
    max_surge: int
    replicas_max: int | None
    allow_downtime: bool
    queue_policy: str
    limits: Limits
    gateway: GatewayOptions
    gate: Mapping[str, float | None]
    serving: str | None
    created: int
    updated: int
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "EndpointShape":
        answer = Fields(body, "an endpoint")
        serving = answer.raw.get("serving")
        return cls(
            endpoint_id=answer.text("endpoint_id"),
            org_name=answer.text("org_name"),
            model_arch_id=answer.text("model_arch_id"),
            replicas=answer.integer("replicas"),
            max_unavailable=answer.integer("max_unavailable"),
            max_surge=answer.integer("max_surge"),
            replicas_max=answer.integer_or_none("replicas_max"),
            allow_downtime=answer.flag("allow_downtime"),
            queue_policy=answer.text_or_none("queue_policy") or "fifo",
            limits=Limits.read(answer, "limits"),
            gateway=GatewayOptions.read(answer, "gateway"),
            gate=_gate(answer),
            serving=None if serving is None else str(serving),
            created=answer.integer("created"),
            updated=answer.integer("updated"),
            raw=answer.raw,
        )


@dataclass(frozen=True, slots=True)
class Replica:
    id: str
    endpoint_id: str
    deployment_id: str
    version_id: str
    state: str
    reason: str
    node: str | None
    in_flight: int | None
    created: int
    ready: int | None
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "Replica":
        answer = Fields(body, "a replica")
        return cls(
            id=answer.text("id"),
            endpoint_id=answer.text("endpoint_id"),
            deployment_id=answer.text("deployment_id"),
            version_id=str(answer.raw.get("version_id", "?")),
            state=answer.text("state"),
            reason=answer.text_or_none("reason") or "",
            node=answer.text_or_none("node"),
            in_flight=answer.integer_or_none("in_flight"),
            created=answer.integer("created"),
            ready=answer.integer_or_none("ready"),
            raw=answer.raw,
        )


@dataclass(frozen=True, slots=True)
class WeightStore:
    """`unused` is what a collection would remove now, `due` what is still to be hashed again."""

    free_bytes: int
    total_bytes: int
    blobs: int
    blob_bytes: int
    unused_blobs: int
    unused_bytes: int
    due_blobs: int
    due_bytes: int
    damaged: tuple[Mapping[str, object], ...]
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "WeightStore":
        answer = Fields(body, "the weight store")
        return cls(
            free_bytes=answer.integer("free_bytes"),
            total_bytes=answer.integer("total_bytes"),
            blobs=answer.integer("blobs"),
            blob_bytes=answer.integer("blob_bytes"),
            unused_blobs=answer.integer("unused_blobs"),
            unused_bytes=answer.integer("unused_bytes"),
            due_blobs=answer.integer("due_blobs"),
            due_bytes=answer.integer("due_bytes"),
            damaged=tuple(item.raw for item in answer.parts("damaged", "a damaged blob")),
            raw=answer.raw,
        )


@dataclass(frozen=True, slots=True)
class Status:
    """The server's own state; `gateways` are its running gateway workers."""

    version: str
    database: str
    gateways: tuple[Mapping[str, object], ...]
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "Status":
        answer = Fields(body, "the server's status")
        return cls(
            version=answer.text("version"),
            database=str(answer.raw.get("database", "?")),
            gateways=tuple(item.raw for item in answer.parts("gateways", "a gateway")),
            raw=answer.raw,
        )


@dataclass(frozen=True, slots=True)
class S3Setup:
    """The policies that let an org's uploads read a bucket, as AWS takes them."""

    trust_policy: Mapping[str, object]
    role_policy: Mapping[str, object]
    bucket_policy: Mapping[str, object]
    key_statement: Mapping[str, object] | None
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "S3Setup":
        answer = Fields(body, "the S3 set-up")
        key = answer.part_or_none("key_statement")
        return cls(
            trust_policy=answer.part("trust_policy").raw,
            role_policy=answer.part("role_policy").raw,
            bucket_policy=answer.part("bucket_policy").raw,
            key_statement=None if key is None else key.raw,
            raw=answer.raw,
        )


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket and the org it is bound to; `role_arn` is the org's own role that read it."""

    bucket: str
    org_name: str
    role_arn: str | None
    bound: int
    raw: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def read(cls, body: object) -> "Bucket":
        answer = Fields(body, "a bucket")
        return cls(
            bucket=answer.text("bucket"),
            org_name=answer.text("org_name"),
            role_arn=answer.text_or_none("role_arn"),
            bound=answer.integer("bound"),
            raw=answer.raw,
        )
