"""Receipts on the command line: shown with a picture, saved, and checked without a server."""

import hashlib
import hmac
import json
from xml.etree import ElementTree as ET

import pytest

from receipt_sample import ID, document

PATH = f"/management/v1/deployments/{ID}/receipt"


@pytest.fixture
def saved(server, weighbridge, tmp_path):
    """A receipt that the program saved itself."""
    server.on("GET", PATH, document())
    file = tmp_path / "receipt.json"
    assert weighbridge("receipt", "save", ID, str(file)).code == 0
    return file


def test_a_receipt_is_shown_as_facts_a_picture_and_tables(server, weighbridge, tmp_path):
    server.on("GET", PATH, document())
    run = weighbridge("receipt", "show", ID, "--svg", str(tmp_path / "r.svg"))
    assert run.code == 0
    assert "lowest 1, at the start 1, floor 1" in run.out
    assert "not measured: no gateway figure" in run.out
    assert "version 1: 7" in run.out
    lane = next(line for line in run.out.splitlines() if line.startswith("r-2 "))
    assert (
        lane.index("·") < lane.index("-", 4) < lane.index("=") < lane.index("▒") < lane.index("█")
    )
    root = ET.fromstring((tmp_path / "r.svg").read_text())
    assert root.tag.endswith("svg")


def test_an_untouched_file_is_intact_and_sealed(saved, weighbridge):
    run = weighbridge("receipt", "verify", str(saved))
    assert run.code == 0
    assert run.out.startswith("intact and sealed")
    assert document()["head"] in run.out


def test_a_changed_entry_is_named(saved, weighbridge):
    changed = json.loads(saved.read_text())
    changed["entries"][6]["payload"]["routable"] = 9
    saved.write_text(json.dumps(changed))
    run = weighbridge("receipt", "verify", str(saved), "--json")
    assert run.code == 1
    (finding,) = run.document["findings"]
    assert finding == {
        "entry": 7,
        "text": "entry 7 was changed: its content does not give its hash",
    }


def test_an_open_receipt_has_an_exit_code_of_its_own(saved, weighbridge):
    saved.write_text(json.dumps(document(sealed=False)))
    run = weighbridge("receipt", "verify", str(saved))
    assert run.code == 5
    assert "not sealed" in run.out


def test_what_is_no_receipt_is_not_intact_and_what_cannot_be_read_is_a_mistake(
    saved, weighbridge, tmp_path
):
    saved.write_text(saved.read_text()[:-40])
    assert weighbridge("receipt", "verify", str(saved)).code == 1
    assert weighbridge("receipt", "verify", str(tmp_path / "nothing.json")).code == 2


def test_another_published_head_is_not_intact(saved, weighbridge):
    assert weighbridge("receipt", "verify", str(saved), "--head", "0" * 64).code == 1
    assert weighbridge("receipt", "verify", str(saved), "--head", document()["head"]).code == 0


def test_a_signature_is_checked_with_the_operators_key(saved, weighbridge, tmp_path):
    key = tmp_path / "key"
    key.write_text("a key of the operator\n")
    signed = document()
    text = f"{ID}\n{signed['head']}".encode()
    signed["signature"] = hmac.new(b"a key of the operator", text, hashlib.sha256).hexdigest()
    saved.write_text(json.dumps(signed))
    assert weighbridge("receipt", "verify", str(saved), "--key-file", str(key)).code == 0
    key.write_text("the key of somebody else")
    assert weighbridge("receipt", "verify", str(saved), "--key-file", str(key)).code == 1
