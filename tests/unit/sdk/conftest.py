"""A server in one function: answers are programmed by method and path, requests are kept."""

from collections.abc import Callable, Sequence

import httpx
import pytest

from weighbridge.sdk import Client

Answer = httpx.Response | Exception


class Server:
    """Answers of one route are given in order, the last one again and again."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.slept_s: list[float] = []
        self._answers: dict[tuple[str, str], list[Answer]] = {}

    def on(self, method: str, path: str, *answers: Answer | dict | tuple[int, dict]) -> None:
        self._answers[method, path] = [_answer(answer) for answer in answers]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answers = self._answers.get((request.method, request.url.raw_path.decode().split("?")[0]))
        if answers is None:
            return httpx.Response(404, headers={"content-type": "text/plain"})
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        # An answer may be given again, and a response can be read only once.
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def client(self, **changes: object) -> Client:
        given = {"api_key": "wb_mgmt_k", "admin_key": "wb_admin_k", "inference_key": "wb_inf_k"}
        return Client(
            "http://server.test/",
            http_transport=httpx.MockTransport(self),
            sleep=self.slept_s.append,
            **{**given, **changes},
        )


def _answer(answer: Answer | dict | tuple[int, dict]) -> Answer:
    if isinstance(answer, dict):
        return httpx.Response(200, json=answer)
    if isinstance(answer, tuple):
        return httpx.Response(answer[0], json=answer[1])
    return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    for name in ("BASE_URL", "API_KEY", "ADMIN_KEY", "INFERENCE_KEY"):
        monkeypatch.delenv(f"WEIGHBRIDGE_{name}", raising=False)
    return Server()


@pytest.fixture
def events() -> Callable[[Sequence[str]], httpx.Response]:
    """A stream of server-sent events as one answer."""

    def build(data: Sequence[str]) -> httpx.Response:
        body = "".join(f"data: {item}\n\n" for item in data)
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=body)

    return build
