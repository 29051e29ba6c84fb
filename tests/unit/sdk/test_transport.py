import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.sdk import (
    AnswerError,
    AuthenticationError,
    BadRequestError,
    Client,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    StatusError,
    UnavailableError,
)
from weighbridge.sdk.errors import status_error
from weighbridge.sdk.transport import RETRY_AFTER_MAX_S, backoff_s, retry_delay_s

MODELS = "/management/v1/orgs/acme/models"
UPLOAD = f"{MODELS}:upload"
BUSY = (503, {"message": "away", "type": "t", "param": None, "code": "unavailable"})
VERSION = {
    "name": "orgs/acme/models/m/versions/1",
    "done": False,
    "response": {"customer_s3_uri": "s3://b/p", "version_aliases": [], "sync_status": "queued"},
}


def upload(client):
    return client.models.upload("acme", "m", "s3://b/p")


def test_a_read_is_tried_three_times_with_growing_pauses(server):
    server.on("GET", MODELS, BUSY)
    with server.client() as client, pytest.raises(UnavailableError, match="away"):
        client.models.list("acme")
    assert len(server.requests) == 3
    first, second = server.slept_s
    assert 0.375 <= first <= 0.5
    assert 0.75 <= second <= 1.0


def test_a_read_survives_a_reset_connection(server):
    server.on("GET", MODELS, httpx.ReadError("reset"), {"model_architectures": ["m"]})
    with server.client() as client:
        assert client.models.list("acme") == ("m",)


@pytest.mark.parametrize("answer", [BUSY, (500, {}), (408, {}), httpx.ReadTimeout("slow")])
def test_an_upload_that_may_have_happened_is_not_sent_again(server, answer):
    server.on("POST", UPLOAD, answer)
    with server.client() as client, pytest.raises((StatusError, ConnectionFailedError)):
        upload(client)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("refused"),
        (429, {}),
        httpx.Response(503, headers={"x-should-retry": "true"}),
    ],
)
def test_an_upload_that_certainly_did_not_happen_is_sent_again(server, answer):
    server.on("POST", UPLOAD, answer, VERSION)
    with server.client() as client:
        assert upload(client).version_id == 1


def test_an_upload_with_an_idempotency_key_is_sent_again_with_the_same_one(server):
    server.on("POST", UPLOAD, httpx.ReadTimeout("lost"), VERSION)
    with server.client() as client:
        made = client.models.upload("acme", "m", "s3://b/p", idempotency_key="job-12")
    assert made.sync_status == "queued"
    assert [r.headers.get("idempotency-key") for r in server.requests] == ["job-12"] * 2


def test_the_pause_the_server_asks_for_is_kept(server):
    answer = httpx.Response(429, headers={"retry-after": "7"})
    server.on("GET", MODELS, answer, {"model_architectures": []})
    with server.client() as client:
        client.models.list("acme")
    assert server.slept_s == [7.0]


@pytest.mark.parametrize(
    ("status", "headers", "repeatable", "expected"),
    [
        (503, {"x-should-retry": "false"}, True, None),
        (409, {}, True, None),
        (409, {"x-should-retry": "true", "retry-after": "1"}, True, 1.0),
        (503, {"retry-after-ms": "250", "retry-after": "9"}, True, 0.25),
        (503, {"retry-after": "3"}, False, None),
        (429, {"retry-after": "3"}, False, 3.0),
        (429, {"retry-after": str(RETRY_AFTER_MAX_S + 1)}, True, None),
        (429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, True, 0.0),
        (400, {"retry-after": "1"}, True, None),
    ],
)
def test_retry_delay(status, headers, repeatable, expected):
    assert retry_delay_s(0, status, headers, repeatable=repeatable) == expected


def test_an_unreadable_retry_after_falls_back_to_the_usual_pause():
    delay_s = retry_delay_s(0, 503, {"retry-after": "soon"}, repeatable=True)
    assert delay_s is not None
    assert 0 < delay_s <= 0.5


@given(st.integers(0, 50))
def test_a_pause_is_never_longer_than_eight_seconds(attempt):
    assert 0.375 <= backoff_s(attempt) <= 8.0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (409, ConflictError),
        (418, StatusError),
        (422, BadRequestError),
        (429, RateLimitError),
        (500, ServerError),
        (503, UnavailableError),
        (599, ServerError),
    ],
)
def test_the_status_decides_the_class(status, kind):
    error = status_error(status, {"message": "m", "code": "c", "param": "p"}, asked="GET /x")
    assert type(error) is kind
    assert (error.message, error.code, error.param, error.status) == ("m", "c", "p", status)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "inside"}}, "inside"),
        ({"detail": "Not authenticated"}, "Not authenticated"),
        ({"detail": [{"loc": ["body"], "msg": "missing"}, {"msg": "wrong"}]}, "missing; wrong"),
        (None, "GET /x was answered with status 403"),
        ([], "GET /x was answered with status 403"),
    ],
)
def test_a_message_is_found_in_every_dialect(body, message):
    assert status_error(403, body, asked="GET /x").message == message


def test_an_answer_that_is_not_json_says_so(server):
    server.on("GET", MODELS, httpx.Response(200, text="<html>"))
    with server.client() as client, pytest.raises(AnswerError, match="base URL"):
        client.models.list("acme")


def test_a_redirect_is_not_followed_so_that_the_key_stays_here(server):
    server.on("GET", MODELS, httpx.Response(302, headers={"location": "http://evil.test/"}))
    with server.client() as client, pytest.raises(AnswerError):
        client.models.list("acme")
    assert len(server.requests) == 1


def test_each_kind_of_call_carries_its_own_key(server):
    server.on("GET", MODELS, {"model_architectures": []})
    server.on("GET", "/admin/v1/orgs", {"orgs": []})
    server.on("POST", "/v1/chat/completions", {"choices": [{"message": {"content": "hi"}}]})
    with server.client() as client:
        client.models.list("acme")
        client.admin.orgs.list()
        client.chat.create("e", [])
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["Bearer wb_mgmt_k", "Bearer wb_admin_k", "Bearer wb_inf_k"]


def test_a_missing_key_is_named_before_anything_is_sent(server):
    with (
        server.client(admin_key=None) as client,
        pytest.raises(ConfigurationError, match="WEIGHBRIDGE_ADMIN_KEY"),
    ):
        client.admin.status()
    assert server.requests == []


def test_a_malformed_key_is_refused_without_showing_it(server):
    with server.client(api_key="wb_mgmt\n") as client, pytest.raises(ConfigurationError) as caught:
        client.models.list("acme")
    assert "wb_mgmt" not in str(caught.value)


def test_the_environment_stands_in_for_what_is_not_given(server, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_BASE_URL", "http://elsewhere.test")
    monkeypatch.setenv("WEIGHBRIDGE_API_KEY", "wb_both_k")
    server.on("POST", "/v1/chat/completions", {"choices": []})
    with Client(http_transport=httpx.MockTransport(server)) as client:
        client.chat.create("e", [])
    assert server.requests[0].url.host == "elsewhere.test"
    assert server.requests[0].headers["authorization"] == "Bearer wb_both_k"


def test_a_base_url_without_scheme_is_refused():
    with pytest.raises(ConfigurationError, match="localhost:8080"):
        Client("localhost:8080")


def test_names_are_quoted_in_paths(server):
    server.on("GET", "/management/v1/endpoints/a%2F..%2Fb", {})
    with server.client() as client, pytest.raises(AnswerError):
        client.endpoints.get("a/../b")
