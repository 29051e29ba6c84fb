"""Run a supervisor over services given as JSON; print its events as JSON lines."""

import dataclasses
import functools
import json
import sys
from pathlib import Path

from weighbridge.errors import SetupError
from weighbridge.server.services import RestartPolicy, Service, accepts_unix
from weighbridge.server.supervisor import Supervisor

run_dir, log_dir = Path(sys.argv[1]), Path(sys.argv[2])
services = [
    Service(
        row["name"],
        row["argv"],
        row.get("env", {}),
        row.get("stop_grace_s", 5.0),
        row.get("follow_argv", ()),
        functools.partial(accepts_unix, run_dir / f"{row['name']}.sock"),
    )
    for row in json.loads(sys.argv[3])
]


def tell(event):
    sys.stdout.write(json.dumps(dataclasses.asdict(event)) + "\n")
    sys.stdout.flush()


policy = RestartPolicy(delay_min_s=0.05, healthy_s=60.0)
try:
    Supervisor(services, run_dir, log_dir, policy=policy, on_event=tell).run()
except SetupError as error:
    sys.exit(error.message)
