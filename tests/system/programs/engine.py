"""A stand-in engine of the standard library: serves who it is, and can misbehave as asked."""

import argparse
import http.server
import json
import os
import signal
import subprocess
import sys
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("--host", default="127.0.0.1")
arguments.add_argument("--port", type=int, default=0)
arguments.add_argument("--model", default="")
arguments.add_argument("--children", type=int, default=0)
arguments.add_argument("--hidden-child", action="store_true", help="own session, no environment")
arguments.add_argument("--ignore-sigterm", action="store_true")
arguments.add_argument("--print-bytes", type=int, default=0)
arguments.add_argument("--exit-code", type=int)
options = arguments.parse_args()

if options.ignore_sigterm:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # inherited over exec by the children
for line in range(options.print_bytes // 100):
    sys.stdout.write(f"{line:099d}\n")
sys.stdout.write("engine says: last line\n")
sys.stdout.flush()
if options.exit_code is not None:
    sys.exit(options.exit_code)

SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
children = [subprocess.Popen(SLEEPER).pid for _ in range(options.children)]
if options.hidden_child:
    children.append(subprocess.Popen(SLEEPER, env={}, start_new_session=True).pid)


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        who = {"pid": os.getpid(), "children": children, "model": options.model}
        body = json.dumps(who | {"at": time.time()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer((options.host, options.port), Answer).serve_forever()
