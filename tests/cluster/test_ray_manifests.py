"""The Ray commands of deploy/: options that `ray start` has, of a version that the driver accepts."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray.scripts.scripts import start

from weighbridge.runtimes.ray.cluster import check_version

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
OPERATING = Path(__file__).parents[2] / "docs"
KNOWN = {option for parameter in start.params for option in parameter.opts}
FLAGS = {option for parameter in start.params if parameter.is_flag for option in parameter.opts}


def cluster() -> dict:
    return yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())


def groups() -> list[dict]:
    spec = cluster()["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("group", groups(), ids=lambda group: group.get("groupName", "head"))
def test_the_parameters_of_a_group_are_options_of_ray_start(group: dict) -> None:
    options = {f"--{name}": value for name, value in group["rayStartParams"].items()}
    assert options.keys() <= KNOWN
    assert all(value == "true" for name, value in options.items() if name in FLAGS)


def test_the_cluster_has_a_version_of_ray_that_the_driver_accepts() -> None:
    check_version(cluster()["spec"]["rayVersion"])


def test_the_servers_own_ray_node_is_started_with_options_that_there_are() -> None:
    deployment, *_ = yaml.safe_load_all((DEPLOY / "weighbridge.yaml").read_text())
    containers = deployment["spec"]["template"]["spec"]["containers"]
    (node,) = [one for one in containers if one["name"] == "ray-node"]
    program, command, *words = node["command"]
    assert (program, command) == ("ray", "start")
    given = {word.partition("=")[0] for word in words}
    assert given <= KNOWN
    values = {f"--{name}" for name in ("num-cpus", "num-gpus")}
    assert values <= given


def documented() -> Iterator[str]:
    for path in sorted(OPERATING.rglob("*.md")):
        yield from re.findall(r"^\s*ray start (.*?)(?:\s+#.*)?$", path.read_text(), re.MULTILINE)


def test_the_commands_of_the_documents_are_started_with_options_that_there_are() -> None:
    commands = list(documented())
    assert commands
    for command in commands:
        assert {word for word in command.split() if word.startswith("--")} <= KNOWN, command
