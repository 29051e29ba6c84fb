"""The command that sets when an endpoint's gate turns a rollout back."""

from typing import Annotated

import typer

from weighbridge.cli.output import facts
from weighbridge.cli.session import Session, UsageError

AUTO = "auto"


def _option(name: str, help_: str) -> object:
    return typer.Option(f"--{name}", metavar=f"N|{AUTO}", help=help_)


def endpoint_gate(
    session: Session,
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint's id.")],
    *,
    requests_min: Annotated[
        str | None,
        _option("requests-min", "Requests before a new version is judged; 0: it never is."),
    ] = None,
    errors_share: Annotated[
        str | None, _option("errors-share", "Share of 5xx from which it goes back …")
    ] = None,
    errors_ratio: Annotated[
        str | None, _option("errors-ratio", "… if it is so many times that of the version before.")
    ] = None,
    empty_share: Annotated[
        str | None, _option("empty-share", "The same for answers without a token.")
    ] = None,
    empty_ratio: Annotated[
        str | None, _option("empty-ratio", "The same for answers without a token.")
    ] = None,
    ttft_min_s: Annotated[
        str | None, _option("ttft-min-s", "A time to first token that is never too long.")
    ] = None,
    ttft_ratio: Annotated[
        str | None, _option("ttft-ratio", "In times of the version before, what is too long.")
    ] = None,
    ttft_max_s: Annotated[
        str | None, _option("ttft-max-s", "Too long where there is no version before.")
    ] = None,
) -> None:
    """Set an endpoint's own limits of the gate, `auto` for the server's; what is not given stays."""
    given = {
        "requests_min": requests_min,
        "errors_share": errors_share,
        "errors_ratio": errors_ratio,
        "empty_share": empty_share,
        "empty_ratio": empty_ratio,
        "ttft_min_s": ttft_min_s,
        "ttft_ratio": ttft_ratio,
        "ttft_max_s": ttft_max_s,
    }
    changes = {name: _number(name, text) for name, text in given.items() if text is not None}
    calls = session.client.admin.endpoints
    shape = calls.update(endpoint, gate=changes) if changes else calls.get(endpoint)
    shown = {name: AUTO if value is None else value for name, value in shape.gate.items()}
    session.output.show(shape.raw, facts({"endpoint": shape.endpoint_id, **shown}))


def _number(name: str, text: str) -> float | None:
    if text == AUTO:
        return None
    try:
        return int(text) if name == "requests_min" else float(text)
    except ValueError:
        option = "--" + name.replace("_", "-")
        raise UsageError(f"{option} takes a number or {AUTO}, not {text!r}.") from None
