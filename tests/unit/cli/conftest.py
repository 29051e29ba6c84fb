"""A server on a real socket with programmed answers, and the program run against it."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from weighbridge.cli.main import program


@dataclass
class Server:
    """Answers of one route are given in order, the last one again and again; `asked` keeps the requests."""

    url: str = ""
    asked: list[tuple[str, str, str, object]] = field(default_factory=list)
    answers: dict[tuple[str, str], list[tuple[int, object]]] = field(default_factory=dict)

    def on(self, method: str, path: str, *answers: object) -> None:
        """An answer is a body for 200, a pair of status and body, or a list of lines to stream."""
        self.answers[method, path] = [
            answer if isinstance(answer, tuple) else (200, answer) for answer in answers
        ]

    def answer(self, method: str, path: str, key: str, body: object) -> tuple[int, object]:
        self.asked.append((method, path, key, body))
        given = self.answers.get((method, path), [(404, {"message": f"no route {path}"})])
        return given.pop(0) if len(given) > 1 else given[0]

    @property
    def last(self) -> tuple[str, str, str, object]:
        return self.asked[-1]


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict:
        return json.loads(self.out)


@pytest.fixture
def server() -> Iterator[Server]:
    double = Server()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            key = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            status, answer = double.answer(self.command, self.path, key, body)
            lines = isinstance(answer, list)
            content = (
                "".join(f"data: {line}\n\n" for line in answer) if lines else json.dumps(answer)
            )
            self.send_response(status)
            self.send_header("x-should-retry", "false")
            self.send_header("content-length", str(len(content.encode())))
            self.end_headers()
            self.wfile.write(content.encode())

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 (the library's names)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    yield double
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program finds its profile file; nothing else is set in the environment."""
    path = tmp_path / "profile" / "config.toml"
    for name in ("BASE_URL", "API_KEY", "ADMIN_KEY", "INFERENCE_KEY", "ORG"):
        monkeypatch.delenv(f"WEIGHBRIDGE_{name}", raising=False)
    monkeypatch.setenv("WEIGHBRIDGE_CONFIG", str(path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("COLUMNS", "200")
    return path


@pytest.fixture
def bare(profile: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run the program with no configuration at all."""

    def run(*arguments: str) -> Run:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            program()(list(arguments), prog_name="weighbridge")
        captured = capsys.readouterr()
        return Run(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def weighbridge(
    server: Server, bare: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Run]:
    """Run the program against the double, with all three keys and an org."""
    monkeypatch.setenv("WEIGHBRIDGE_BASE_URL", server.url)
    monkeypatch.setenv("WEIGHBRIDGE_API_KEY", "wb_mgmt_k")
    monkeypatch.setenv("WEIGHBRIDGE_ADMIN_KEY", "wb_admin_k")
    monkeypatch.setenv("WEIGHBRIDGE_INFERENCE_KEY", "wb_inf_k")
    monkeypatch.setenv("WEIGHBRIDGE_ORG", "acme")
    return bare
