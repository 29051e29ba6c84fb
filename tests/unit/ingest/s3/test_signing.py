"""Requests signed here are those botocore would sign."""

import calendar
import time
from unittest.mock import patch

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.ingest.s3.signing import Signer, encoded_path

NOW_S = calendar.timegm((2026, 3, 14, 1, 59, 26))


def botocores(
    method: str, url: str, headers: dict[str, str], credentials: Credentials
) -> AWSRequest:
    request = AWSRequest(method, url, headers=headers)
    moment = __import__("datetime").datetime.fromtimestamp(NOW_S, __import__("datetime").UTC)
    with patch("botocore.auth.get_current_datetime", return_value=moment.replace(tzinfo=None)):
        S3SigV4Auth(credentials, "s3", "eu-west-3").add_auth(request)
    return request


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@given(
    key=st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=40),
    version=st.none() | st.text("abcXYZ019._-~+/= ", min_size=1, max_size=20),
)
def test_the_signature_is_botocores(token: str | None, key: str, version: str | None) -> None:
    credentials = Credentials("AKID", "secret", token)
    signer = Signer(credentials.get_frozen_credentials, "eu-west-3", now=lambda: float(NOW_S))
    asked = {"Range": "bytes=0-9", "If-Match": '"etag"', "x-amz-checksum-mode": "ENABLED"}
    query = {} if version is None else {"versionId": version}
    path = f"/acme/{encoded_path(key)}"
    target, headers = signer.sign("GET", "s3.example:9000", path, query, asked)
    # botocore signs what it is given, so it is given our headers and must come to the same end.
    given_headers = {
        name: value
        for name, value in headers.items()
        if name not in ("authorization", "x-amz-date", "x-amz-security-token", "host")
    }
    request = botocores("GET", f"http://s3.example:9000{target}", given_headers, credentials)
    assert headers["authorization"] == request.headers["Authorization"]


def test_the_time_and_the_token_of_the_moment_are_sent() -> None:
    credentials = Credentials("AKID", "secret", "first")
    signer = Signer(credentials.get_frozen_credentials, "eu-west-3", now=time.time)
    credentials.token = "second"
    _, headers = signer.sign("HEAD", "h", "/k", {}, {})
    assert headers["x-amz-security-token"] == "second"
    assert "range" not in headers
