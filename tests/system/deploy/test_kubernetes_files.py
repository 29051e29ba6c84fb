"""deploy/kubernetes as far as it can be judged without a cluster: fields, names, ports, settings and command lines."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from kubernetes_schemas import SCHEMAS
from test_deployment_files import assert_command

from weighbridge.gateway.proxy.probes import ProbeSite
from weighbridge.server.roles.processes import GATEWAY_STOP_S
from weighbridge.settings import DataDir, Settings

pytestmark = pytest.mark.system

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
PREFIX = "WEIGHBRIDGE_"
PART_OF = {"app.kubernetes.io/part-of": "weighbridge"}
NODE_DIR = "WEIGHBRIDGE_NODE_DIR"
"""Of a Ray node, not of a server."""


class Strict(yaml.SafeLoader):
    """A key that is there twice is a mistake that YAML would pass over."""


def _mapping(loader: Strict, node: yaml.MappingNode) -> dict[object, object]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(map(str, keys))), f"twice in {node.start_mark}: {keys}"
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def documents(path: Path) -> list[dict]:
    return list(yaml.load_all(path.read_text(), Strict))


OBJECTS = [
    document for path in FILES if path.name != "kustomization.yaml" for document in documents(path)
]


def of_kind(kind: str) -> list[dict]:
    found = [one for one in OBJECTS if one["kind"] == kind]
    assert found, kind
    return found


def templates() -> Iterator[tuple[dict, dict[str, str]]]:
    """Every pod template with the labels that its pods carry, those that KubeRay adds among them."""
    for one in of_kind("Deployment"):
        template = one["spec"]["template"]
        yield template["spec"], template["metadata"]["labels"]
    for one in of_kind("RayCluster"):
        groups = [("head", one["spec"]["headGroupSpec"])]
        groups += [("worker", group) for group in one["spec"]["workerGroupSpecs"]]
        for kind, group in groups:
            added = {"ray.io/cluster": one["metadata"]["name"], "ray.io/node-type": kind}
            template = group["template"]
            yield template["spec"], template["metadata"]["labels"] | added


def containers() -> Iterator[tuple[dict, dict]]:
    for pod, _ in templates():
        for container in pod["containers"]:
            yield pod, container


def container(name: str) -> dict:
    (found,) = [one for _, one in containers() if one["name"] == name]
    return found


def environment(one: Mapping) -> dict[str, object]:
    """Values as they are written; of a reference, where it points."""
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in one["env"]}


def matches(selector: Mapping, labels: Mapping[str, str]) -> bool:
    return selector["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_an_object_has_only_fields_that_its_kind_has(one: dict) -> None:
    jsonschema.Draft202012Validator(SCHEMAS[one["kind"]]).validate(one)
    assert one["metadata"]["labels"].items() >= PART_OF.items()


def test_what_is_applied_is_every_file_but_the_example_of_a_secret() -> None:
    (applied,) = documents(FOLDER / "kustomization.yaml")
    named = {*applied["resources"], "secret.example.yaml", "kustomization.yaml"}
    assert {path.name for path in FILES} == named
    assert len({(one["kind"], one["metadata"]["name"]) for one in OBJECTS}) == len(OBJECTS)
    # The image that the tag replaces is that of all containers, so that Python and Ray are the same everywhere.
    assert {one["image"] for _, one in containers()} == {item["name"] for item in applied["images"]}


def secrets() -> dict[str, dict[str, str]]:
    return {one["metadata"]["name"]: one["stringData"] for one in of_kind("Secret")}


@pytest.mark.parametrize(
    ("name", "url", "runtime"),
    [("weighbridge", "database-url", "ray"), ("gateway", "gateway-database-url", "local")],
)
def test_each_setting_is_one_and_has_a_value_that_it_may_have(
    name: str, url: str, runtime: str
) -> None:
    env = environment(container(name))
    settings = {name.removeprefix(PREFIX).lower(): value for name, value in env.items()}
    assert settings.keys() <= set(Settings.model_fields)
    values = {name: value for name, value in settings.items() if isinstance(value, str)}
    texts = secrets()["weighbridge"]
    hidden = {"database_url": texts[url], "ray_auth_token": texts["ray-auth-token"]}
    more = {key: value for key, value in hidden.items() if key in settings}
    assert env["WEIGHBRIDGE_DATABASE_URL"]["secretKeyRef"]["key"] == url
    of_the_pod = {key: "10.0.0.1" for key in ("ray_node_ip", "weights_host") if key in settings}
    assert settings.keys() == {*values, *more, *of_the_pod}
    found = Settings.model_validate({**values, **more, **of_the_pod})
    assert (found.runtime, found.ray_auth) == (runtime, "token")


def test_a_ray_node_has_no_setting_of_a_server() -> None:
    for name in ("ray-head", "ray-worker", "ray-node"):
        ours = {one for one in environment(container(name)) if one.startswith(PREFIX)}
        assert ours <= {NODE_DIR}


def test_no_secret_is_written_down_and_each_one_is_there() -> None:
    for _, one in containers():
        for name, value in environment(one).items():
            if re.search("TOKEN|PASSWORD|SECRET|DATABASE_URL", name):
                reference = value["secretKeyRef"]
                assert reference["key"] in secrets()[reference["name"]]


def test_every_node_asks_for_the_token_and_waits_for_its_head_equally_long() -> None:
    nodes = [environment(container(name)) for name in ("ray-head", "ray-worker", "ray-node")]
    token = environment(container("weighbridge"))["WEIGHBRIDGE_RAY_AUTH_TOKEN"]
    assert all(env["RAY_AUTH_MODE"] == "token" for env in nodes)
    assert all(env["RAY_AUTH_TOKEN"] == token for env in nodes)
    assert len({env["RAY_gcs_rpc_server_reconnect_timeout_s"] for env in nodes}) == 1


@pytest.mark.parametrize("name", ["weighbridge", "gateway"])
def test_a_servers_command_is_one_of_ours(name: str) -> None:
    program, *words = container(name)["command"]
    assert program == "weighbridge"
    assert_command(words)


def test_addresses_and_ports_are_those_that_somebody_listens_on() -> None:
    (cluster,) = of_kind("RayCluster")
    head = cluster["spec"]["headGroupSpec"]
    # KubeRay names a cluster's head service so.
    address = f"{cluster['metadata']['name']}-head-svc:{head['rayStartParams']['port']}"
    server = environment(container("weighbridge"))
    assert server["WEIGHBRIDGE_RAY_ADDRESS"] == address
    assert f"--address={address}" in container("ray-node")["command"]
    ports = {
        one["name"]: {port["name"]: port["containerPort"] for port in one["ports"]}
        for _, one in containers()
    }
    assert ports["weighbridge"] == {
        "http": int(server["WEIGHBRIDGE_PORT"]),
        "probe": int(server["WEIGHBRIDGE_PROBE_PORT"]),
        "weights": int(server["WEIGHBRIDGE_WEIGHTS_PORT"]),
    }
    gateway = environment(container("gateway"))
    assert ports["gateway"] == {
        "http": int(gateway["WEIGHBRIDGE_PORT"]),
        "probe": int(gateway["WEIGHBRIDGE_PROBE_PORT"]),
    }
    assert ports["ray-head"] == {"gcs": int(head["rayStartParams"]["port"])}
    (worker,) = cluster["spec"]["workerGroupSpecs"]
    assert ports["ray-worker"] == {"raylet": int(worker["rayStartParams"]["node-manager-port"])}
    raylet = ports["ray-node"]["raylet"]
    assert f"--node-manager-port={raylet}" in container("ray-node")["command"]
    chosen: dict[str, set[str]] = {}
    for service in of_kind("Service"):
        spec, name = service["spec"], service["metadata"]["name"]
        pods = [pod for pod, labels in templates() if spec["selector"].items() <= labels.items()]
        chosen[name] = {pod["containers"][0]["name"] for pod in pods}
        for port in spec["ports"]:
            assert all(ports[one][port["targetPort"]] == port["port"] for one in chosen[name])
    assert chosen == {
        "weighbridge": {"weighbridge"},
        "weighbridge-gateway": {"gateway"},
        "weighbridge-probe": {"weighbridge", "gateway"},
    }
    control = urlsplit(gateway["WEIGHBRIDGE_CONTROL_URLS"])
    assert chosen[control.hostname] == {"weighbridge"}
    assert control.port == ports["weighbridge"]["http"]


def test_each_container_is_probed_at_a_port_of_its_own_and_a_path_that_answers(
    tmp_path: Path,
) -> None:
    statuses: list[int] = []
    caller = SimpleNamespace(answer=lambda status, _fields, _body: statuses.append(status))
    for _, one in containers():
        names = {port["name"] for port in one["ports"]}
        probes = [one[key] for key in one if key.endswith("Probe")]
        assert any(key == "livenessProbe" for key in one), one["name"]
        for probe in probes:
            asked = probe.get("httpGet", probe.get("tcpSocket"))
            assert asked["port"] in names
            if "path" in asked:
                ProbeSite(tmp_path).visit(SimpleNamespace(path=asked["path"]), caller).start(b"")
    assert len(statuses) == 6
    assert 404 not in statuses


def test_what_is_mounted_is_there_and_the_data_is_the_servers_alone() -> None:
    claims = {one["metadata"]["name"] for one in of_kind("PersistentVolumeClaim")}
    for pod, one in containers():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for mount in one.get("volumeMounts", []):
            volume = volumes[mount["name"]]
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims
            if secret := volume.get("secret"):
                assert secret["secretName"] in secrets()
    data = {
        (one["name"], mount["subPath"], mount["mountPath"])
        for _, one in containers()
        for mount in one.get("volumeMounts", [])
        if mount["name"] == "data"
    }
    root = environment(container("weighbridge"))["WEIGHBRIDGE_DATA_DIR"]
    assert data == {("weighbridge", name, f"{root}/{name}") for name in ("store", "cache", "usage")}
    assert environment(container("ray-worker"))[NODE_DIR] in {
        mount["mountPath"] for mount in container("ray-worker")["volumeMounts"]
    }


def test_server_and_gateways_have_the_same_pepper_and_nobody_else_has_it() -> None:
    having = {
        (one["name"], mount["mountPath"], mount["readOnly"])
        for pod, one in containers()
        for mount in one.get("volumeMounts", [])
        for volume in pod["volumes"]
        if volume["name"] == mount["name"] and "secret" in volume
    }
    directory = DataDir(Path("/var/lib/weighbridge")).secrets
    assert having == {(name, str(directory), True) for name in ("weighbridge", "gateway")}
    assert secrets()["weighbridge-pepper"].keys() == {"pepper"}


def test_the_server_and_its_ray_node_see_each_others_sockets_memory_and_processes() -> None:
    (pod,) = [pod for pod, one in containers() if one["name"] == "weighbridge"]
    assert pod["shareProcessNamespace"] is True
    shared = [
        {mount["mountPath"]: mount["name"] for mount in container(name)["volumeMounts"]}
        for name in ("weighbridge", "ray-node")
    ]
    for path in ("/tmp/ray", "/dev/shm"):
        assert shared[0][path] == shared[1][path]


def test_no_pod_has_more_rights_than_it_needs_or_a_setting_from_a_services_name() -> None:
    for pod, _ in templates():
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
    for _, one in containers():
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert one["resources"]["limits"]["memory"]


def test_policies_cover_every_pod_and_only_the_gateway_and_its_figures_are_open_to_others() -> None:
    policies = [one["spec"] for one in of_kind("NetworkPolicy")]
    for _, labels in templates():
        closed = [one for one in policies if matches(one["podSelector"], labels)]
        assert any("Ingress" in one["policyTypes"] for one in closed)
        on_ray = "ray.io/cluster" in labels
        assert any("Egress" in one["policyTypes"] for one in closed) == on_ray
    for spec in policies:
        assert any(matches(spec["podSelector"], labels) for _, labels in templates())
    opened = {
        (pod["containers"][0]["name"], port["port"])
        for spec in policies
        for rule in spec.get("ingress", [])
        if any("namespaceSelector" in source for source in rule["from"])
        for port in rule["ports"]
        for pod, labels in templates()
        if matches(spec["podSelector"], labels)
    }
    gateway = environment(container("gateway"))
    public, probe = (int(gateway[f"WEIGHBRIDGE_{name}PORT"]) for name in ("", "PROBE_"))
    assert opened == {("gateway", public), ("gateway", probe), ("weighbridge", probe)}


def test_a_budget_is_for_pods_that_there_are_and_leaves_a_worker_to_drain() -> None:
    counts: dict[str, int] = {}
    for budget in of_kind("PodDisruptionBudget"):
        spec = budget["spec"]
        assert any(matches(spec["selector"], labels) for _, labels in templates())
        counts[budget["metadata"]["name"]] = spec["minAvailable"]
    (cluster,) = of_kind("RayCluster")
    (workers,) = cluster["spec"]["workerGroupSpecs"]
    assert counts["weighbridge-ray-workers"] == workers["replicas"] - 1


def test_a_deployment_selects_its_own_pods_and_gives_its_streams_time() -> None:
    found = {one["metadata"]["name"]: one["spec"] for one in of_kind("Deployment")}
    for spec in found.values():
        assert matches(spec["selector"], spec["template"]["metadata"]["labels"])
    server, gateway = found["weighbridge"], found["weighbridge-gateway"]
    assert server["strategy"] == {"type": "Recreate"}
    assert server["template"]["spec"]["terminationGracePeriodSeconds"] >= 150
    assert gateway["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    waits_s = int(container("gateway")["lifecycle"]["preStop"]["exec"]["command"][1])
    grace_s = gateway["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= waits_s + GATEWAY_STOP_S
    assert gateway["replicas"] > 1
