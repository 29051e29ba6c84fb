"""The fields of the Kubernetes objects that our examples use, by kind, as their API references name them.

Written down from the references of Kubernetes 1.30 (core/v1, apps/v1, networking.k8s.io/v1, policy/v1) and of
KubeRay's ray.io/v1; only what the examples use, and nothing else is let through.
"""

TEXT = {"type": "string", "minLength": 1}
NAME = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "maxLength": 63}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
PORT_NAME = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "maxLength": 15}
COUNT = {"type": "integer", "minimum": 0}
FLAG = {"type": "boolean"}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}
LABELS = {
    "type": "object",
    "propertyNames": {"pattern": r"^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"},
    "additionalProperties": {
        "type": "string",
        "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$",
    },
}


def closed(needed: dict, **more: dict) -> dict:
    """An object with these members and no other."""
    return {
        "type": "object",
        "properties": {**needed, **more},
        "required": list(needed),
        "additionalProperties": False,
    }


def several(items: dict) -> dict:
    return {"type": "array", "items": items, "minItems": 1}


def one_of(*words: str) -> dict:
    return {"enum": list(words)}


SELECTOR = closed({"matchLabels": LABELS})
_METADATA = closed({"name": NAME, "labels": LABELS})
_VALUE_FROM = closed(
    {},
    secretKeyRef=closed({"name": NAME, "key": {"type": "string", "pattern": "^[-._a-zA-Z0-9]+$"}}),
    fieldRef=closed({"fieldPath": one_of("status.podIP", "metadata.name", "spec.nodeName")}),
)
_ENV = {
    "oneOf": [
        closed({"name": TEXT, "value": {"type": "string"}}),
        closed({"name": TEXT, "valueFrom": _VALUE_FROM}),
    ]
}
_TIMES = {
    name: {"type": "integer", "minimum": 1}
    for name in ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold")
}
_PROBE = {
    "oneOf": [
        closed({"tcpSocket": closed({"port": PORT_NAME})}, **_TIMES),
        closed({"httpGet": closed({"path": TEXT, "port": PORT_NAME})}, **_TIMES),
    ]
}
_AMOUNTS = {
    "type": "object",
    "properties": dict.fromkeys(("cpu", "memory", "nvidia.com/gpu"), QUANTITY),
    "additionalProperties": False,
}
_CONTAINER = closed(
    {
        "name": NAME,
        "image": TEXT,
        "env": several(_ENV),
        "ports": several(closed({"name": PORT_NAME, "containerPort": PORT})),
        "resources": closed({"requests": _AMOUNTS, "limits": _AMOUNTS}),
        "securityContext": closed(
            {"allowPrivilegeEscalation": FLAG, "capabilities": closed({"drop": several(TEXT)})}
        ),
    },
    command=several(TEXT),
    startupProbe=_PROBE,
    readinessProbe=_PROBE,
    livenessProbe=_PROBE,
    lifecycle=closed({"preStop": closed({"exec": closed({"command": several(TEXT)})})}),
    volumeMounts=several(
        closed(
            {"name": NAME, "mountPath": {"type": "string", "pattern": "^/"}},
            subPath={"type": "string", "pattern": "^[^/.][^/]*$"},
            readOnly=FLAG,
        )
    ),
)
_VOLUME = {
    "oneOf": [
        closed(
            {
                "name": NAME,
                "emptyDir": closed({}, medium=one_of("Memory"), sizeLimit=QUANTITY),
            }
        ),
        closed(
            {
                "name": NAME,
                "secret": closed({"secretName": NAME, "defaultMode": {"enum": [0o400, 0o440]}}),
            }
        ),
        closed({"name": NAME, "persistentVolumeClaim": closed({"claimName": NAME})}),
    ]
}
_POD = closed(
    {
        "containers": several(_CONTAINER),
        "automountServiceAccountToken": FLAG,
        "enableServiceLinks": FLAG,
        "securityContext": closed(
            {
                "runAsNonRoot": FLAG,
                "runAsUser": COUNT,
                "runAsGroup": COUNT,
                "fsGroup": COUNT,
                "seccompProfile": closed({"type": one_of("RuntimeDefault", "Localhost")}),
            }
        ),
    },
    shareProcessNamespace=FLAG,
    terminationGracePeriodSeconds=COUNT,
    volumes=several(_VOLUME),
)
_TEMPLATE = closed({"metadata": closed({"labels": LABELS}), "spec": _POD})
_START_PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}
_PEER = closed({}, podSelector=SELECTOR, namespaceSelector=SELECTOR)
_POLICY_PORTS = several(closed({"protocol": one_of("TCP", "UDP", "SCTP"), "port": PORT}))


def _object(version: str, kind: str, **members: dict) -> dict:
    head = {"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": _METADATA}
    return closed({**head, **members})


SCHEMAS = {
    "Deployment": _object(
        "apps/v1",
        "Deployment",
        spec=closed(
            {
                "replicas": COUNT,
                "selector": SELECTOR,
                "template": _TEMPLATE,
                "strategy": {
                    "oneOf": [
                        closed({"type": {"const": "Recreate"}}),
                        closed(
                            {
                                "type": {"const": "RollingUpdate"},
                                "rollingUpdate": closed(
                                    {"maxUnavailable": COUNT, "maxSurge": COUNT}
                                ),
                            }
                        ),
                    ]
                },
            }
        ),
    ),
    "RayCluster": _object(
        "ray.io/v1",
        "RayCluster",
        spec=closed(
            {
                "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
                "headGroupSpec": closed(
                    {"rayStartParams": _START_PARAMS, "template": _TEMPLATE},
                    serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer"),
                ),
                "workerGroupSpecs": several(
                    closed(
                        {
                            "groupName": NAME,
                            "replicas": COUNT,
                            "minReplicas": COUNT,
                            "maxReplicas": COUNT,
                            "rayStartParams": _START_PARAMS,
                            "template": _TEMPLATE,
                        }
                    )
                ),
            }
        ),
    ),
    "Service": _object(
        "v1",
        "Service",
        spec=closed(
            {
                "type": one_of("ClusterIP", "LoadBalancer"),
                "selector": LABELS,
                "ports": several(
                    closed({"name": PORT_NAME, "port": PORT, "targetPort": PORT_NAME})
                ),
            },
            clusterIP={"const": "None"},
        ),
    ),
    "PersistentVolumeClaim": _object(
        "v1",
        "PersistentVolumeClaim",
        spec=closed(
            {
                "accessModes": several(one_of("ReadWriteOnce", "ReadWriteMany")),
                "resources": closed({"requests": closed({"storage": QUANTITY})}),
            }
        ),
    ),
    "Secret": _object(
        "v1",
        "Secret",
        type={"const": "Opaque"},
        stringData={"type": "object", "additionalProperties": TEXT},
    ),
    "NetworkPolicy": _object(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        spec=closed(
            {"podSelector": SELECTOR, "policyTypes": several(one_of("Ingress", "Egress"))},
            ingress=several(closed({"from": several(_PEER)}, ports=_POLICY_PORTS)),
            egress=several(closed({"to": several(_PEER)}, ports=_POLICY_PORTS)),
        ),
    ),
    "PodDisruptionBudget": _object(
        "policy/v1",
        "PodDisruptionBudget",
        spec=closed({"minAvailable": COUNT, "selector": SELECTOR}),
    ),
}
