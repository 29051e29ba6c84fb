"""The commands `receipt show`, `receipt save` and `receipt verify`."""

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table

from weighbridge.cli.output import Output, cell, facts, plain, table
from weighbridge.cli.receipts.picture import svg_picture, terminal_picture
from weighbridge.cli.receipts.timeline import timeline
from weighbridge.cli.session import AsJson, Exit, Session, UsageError, reported, with_session
from weighbridge.sdk.receipts.summary import PHASES, Payload, stories
from weighbridge.sdk.receipts.verify import Receipt, ReceiptError, examine, read_receipt

FILE_BYTES_MAX = 64 * 1024 * 1024
KEY_VARIABLE = "WEIGHBRIDGE_RECEIPT_KEY"
NOT_MEASURED = "not measured"

DeploymentId = Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="The deployment's id.")]


def show(
    session: Session,
    deployment: DeploymentId,
    *,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the picture into a file.")
    ] = None,
) -> None:
    """Show what a deployment left behind: its replicas over time, and what they add up to."""
    receipt = session.client.receipts.get(deployment)
    time = timeline(receipt.payloads)
    told = _facts(receipt)
    target = told.get("version")
    target = target if isinstance(target, int) else None
    views: list[RenderableType] = [
        facts(_shown(told, receipt)),
        "",
        terminal_picture(time, target),
        "",
        _replicas(receipt),
    ]
    if spread := _phases(receipt):
        views += ["", spread]
    session.output.show(receipt.raw, Group(*views))
    if svg is not None:
        status = told.get("status") or "not ended"
        subtitle = f"deployment {receipt.deployment_id} · {status} · head {receipt.head[:16]}…"
        title = (
            f"{told.get('endpoint')}: version {told.get('base_version') or '–'} → {target or '–'}"
        )
        _write(svg, svg_picture(time, title, subtitle, target))
        session.output.note(f"Drawn in {svg}.")


def save(
    session: Session,
    deployment: DeploymentId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to.")],
) -> None:
    """Save a deployment's receipt, to check it later or elsewhere."""
    receipt = session.client.receipts.get(deployment)
    _write(file, json.dumps(receipt.raw, indent=1, ensure_ascii=False) + "\n")
    document = {"file": str(file), "entries": len(receipt.entries), "head": receipt.head}
    session.output.show({**document, "sealed": receipt.sealed}, facts(document))
    if not receipt.sealed:
        session.output.note("It is not sealed yet: the deployment, or a drain of its, goes on.")


def verify(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A receipt as `receipt save` wrote it.")
    ],
    *,
    head: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="The last hash as published elsewhere, to compare with."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"The operator's key, to check the signature; else the variable {KEY_VARIABLE}.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a receipt without a server.

    Exit codes: 0 intact and sealed, 1 not intact, 2 unreadable, 5 intact but not sealed.
    """
    output = Output(as_json=as_json)
    with reported(output):
        text = _read(file)
        key = _key(key_file)
        try:
            receipt = read_receipt(text)
            verdict = examine(receipt, head=head)
            found = [(finding.sequence, finding.text) for finding in verdict.findings]
            found += [(None, words) for words in _signature(receipt, key)]
            sealed, last = verdict.sealed, receipt.head
        except ReceiptError as error:
            found, sealed, last = [(None, error.message)], False, None
    state = "broken" if found else "sealed" if sealed else "open"
    document = {
        "file": str(file),
        "intact": not found,
        "sealed": sealed,
        "head": last,
        "findings": [{"entry": sequence, "text": words} for sequence, words in found],
    }
    if as_json:
        output.show(document, "")
    else:
        _tell(output, file, state, [words for _, words in found], last)
    raise typer.Exit({"sealed": Exit.OK, "broken": Exit.FAILED, "open": Exit.CONFLICT}[state])


def install(program: typer.Typer) -> None:
    receipt = typer.Typer(no_args_is_help=True)
    receipt.command("show")(with_session(show))
    receipt.command("save")(with_session(save))
    receipt.command("verify")(verify)
    program.add_typer(
        receipt,
        name="receipt",
        help="What a deployment left behind: show it, save it, check it.",
        rich_help_panel="Endpoints and rollouts",
    )


def _tell(output: Output, file: Path, state: str, found: list[str], head: str | None) -> None:
    match state:
        case "broken":
            output.out.print(f"NOT INTACT: {file}", style="red")
            for words in found:
                output.out.print(f"  {plain(words)}", soft_wrap=True)
        case "open":
            output.out.print(f"intact so far, but not sealed: {file}", style="yellow")
        case _:
            output.out.print(f"intact and sealed: {file}", style="green")
    if head is not None and state != "broken":
        output.out.print(f"head {head}", soft_wrap=True)


def _signature(receipt: Receipt, key: bytes | None) -> list[str]:
    """What is wrong with the signature, for whoever has the key."""
    if key is None:
        return []
    if receipt.signature is None:
        return ["it is not signed"] if receipt.sealed else []
    text = f"{receipt.deployment_id}\n{receipt.head}".encode("utf-8", "surrogatepass")
    right = hmac.new(key, text, hashlib.sha256).hexdigest()
    same = hmac.compare_digest(right.encode(), receipt.signature.encode("utf-8", "surrogatepass"))
    return [] if same else ["the signature is not that of this key"]


def _key(path: Path | None) -> bytes | None:
    if path is not None:
        return _read(path).strip().encode()
    text = os.environ.get(KEY_VARIABLE)
    return text.encode() if text else None


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise UsageError(f"{path} is larger than any receipt.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _facts(receipt: Receipt) -> dict[str, object]:
    """What the first and last entries say, sealed or not."""
    told: dict[str, object] = {}
    for name in ("submitted", "started", "ended"):
        told |= next((dict(one) for one in receipt.payloads if one.get("event") == name), {})
    return told | dict(receipt.summary or {})


def _shown(told: Mapping[str, object], receipt: Receipt) -> dict[str, object]:
    missing = told.get("not_measured")
    reasons = missing if isinstance(missing, Mapping) else {}

    def measured(name: str) -> object:
        if receipt.summary is None:
            return None
        value = told.get(name)
        if value is not None:
            return value
        return f"{NOT_MEASURED}: {reasons[name]}" if name in reasons else NOT_MEASURED

    status = told.get("status") or "not ended"
    return {
        "deployment": receipt.deployment_id,
        "endpoint": told.get("endpoint"),
        "version": f"{told.get('version')} (asked for as {told.get('reference')})",
        "base": told.get("base_version"),
        "asked by": told.get("asked_by"),
        "status": f"{status}: {told.get('error') or told.get('reason') or ''}".rstrip(": "),
        "routable": _routable(told) if receipt.summary is not None else None,
        "requests": _requests(measured("requests")),
        "drained": measured("drained"),
        "cut": measured("cut"),
        "held": measured("held"),
        "entries": len(receipt.entries),
        "sealed": "yes" if receipt.sealed else "not yet",
        "head": receipt.head,
    }


def _routable(told: Mapping[str, object]) -> str:
    lowest, first, floor = (
        told.get(name) for name in ("routable_lowest", "routable_at_start", "floor")
    )
    return f"lowest {cell(lowest)}, at the start {cell(first)}, floor {cell(floor)}"


def _requests(value: object) -> object:
    if not isinstance(value, list):
        return value
    rows = [row for row in value if isinstance(row, Mapping)]
    return (
        "; ".join(
            f"version {row['version']}: {row['requests']}"
            + (f" ({row['failed']} failed)" if row.get("failed") else "")
            if row.get("version")
            else f"answered by nobody: {row['requests']}"
            for row in rows
        )
        or "none"
    )


def _replicas(receipt: Receipt) -> Table:
    rows = []
    for story in stories(receipt.payloads).values():
        reason = _reason(receipt.payloads, story.replica_id)
        digest = None if story.digest is None else story.digest[:16]
        rows.append(
            (
                story.replica_id,
                story.version,
                story.last,
                digest,
                story.in_flight,
                story.cut,
                reason,
            )
        )
    return table(("REPLICA", "VERSION", "STATE", "LOADED", "TO DRAIN", "CUT", "REASON"), rows)


def _reason(payloads: list[Payload], replica_id: str) -> object:
    """Why it failed; how ordinary lives end needs no words."""
    ends = [
        one.get("reason")
        for one in payloads
        if one.get("replica") == replica_id and one.get("state") in {"failing", "failed", "lost"}
    ]
    return ends[0] if ends else None


def _phases(receipt: Receipt) -> Table | None:
    spreads = (receipt.summary or {}).get("phases")
    if not isinstance(spreads, Mapping):
        return None
    rows = [
        (
            name,
            spread["count"],
            *(_seconds(spread[key]) for key in ("min_ms", "median_ms", "max_ms")),
        )
        for name in PHASES
        if isinstance(spread := spreads.get(name), Mapping)
    ]
    return table(("PHASE", "TIMES", "SHORTEST", "MEDIAN", "LONGEST"), rows)


def _seconds(ms: object) -> str:
    return f"{ms / 1000:.2f} s" if isinstance(ms, int) else "-"
