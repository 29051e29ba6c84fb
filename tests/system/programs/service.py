"""A stand-in service: takes its lock, listens on a unix socket, and can misbehave as asked."""

import argparse
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from weighbridge.runtimes.processes import hold_lock

arguments = argparse.ArgumentParser()
arguments.add_argument("--run-dir", type=Path, required=True)
arguments.add_argument("--name", required=True)
arguments.add_argument("--ignore-sigterm", action="store_true")
arguments.add_argument("--worker", action="store_true")
arguments.add_argument("--exit-code", type=int)
arguments.add_argument("--say", default="")
arguments.add_argument("--sick-file", type=Path, help="exit at once while this file exists")
options = arguments.parse_args()

lock = hold_lock(options.run_dir / f"{options.name}.lock")
if options.say:
    sys.stderr.write(f"{options.say}\n")
if options.exit_code is not None:
    sys.exit(options.exit_code)
if options.sick_file and options.sick_file.exists():
    sys.exit(1)
if options.ignore_sigterm:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if options.worker:
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
path = options.run_dir / f"{options.name}.sock"
path.unlink(missing_ok=True)
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(str(path))
    listener.listen(64)
    time.sleep(600)
