"""The commands that start, stop and rescue a server on this machine; the only ones that import it."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from weighbridge.cli import config
from weighbridge.cli.output import Output
from weighbridge.cli.session import AsJson, profile_file, reported
from weighbridge.errors import SetupError
from weighbridge.sdk.client import BASE_URL_DEFAULT
from weighbridge.settings import Settings, unknown_names

DataDirectory = Annotated[
    Path | None,
    typer.Option(help="What the server keeps; else WEIGHBRIDGE_DATA_DIR or ~/.weighbridge."),
]


def up(
    data_dir: DataDirectory = None,
    host: Annotated[str | None, typer.Option(help="Address the public port listens on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The public port.")] = None,
    save_key: Annotated[
        bool,
        typer.Option(
            "--save-key", help="Store the first admin key in the profile file, do not print it."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start a server here and stay; Ctrl-C stops it.

    With --json, one document per line: {"event": "progress", "message": …} and, at the first start,
    {"event": "admin_key", "key": …}.
    """
    output = Output(as_json=as_json)
    with reported(output):
        settings = _settings(data_dir=data_dir, host=host, port=port)
        for name, meant in unknown_names(os.environ).items():
            # Not refused: an orchestrator sets such variables for a service that has our name.
            output.note(f"{name} is no setting." + (f" Is {meant} meant?" if meant else ""))
        url = f"http://{_reachable(settings.host)}:{settings.port}"
        if save_key:
            # Before the first key is made: one that cannot be kept would be lost.
            config.with_keys(config.read_profile(profile_file()), url, {})
        news = _News(output, url, save=save_key)
        # Only here, so that a client's installation need not load the server.
        from weighbridge.server.up import up as run  # noqa: PLC0415

        code = run(settings, on_event=news.progress, on_first_key=news.first_key)
    raise typer.Exit(code)


def down(data_dir: DataDirectory = None, as_json: AsJson = False) -> None:
    """Stop the server of a data directory and everything it started."""
    output = Output(as_json=as_json)
    with reported(output):
        settings = _settings(data_dir=data_dir, host=None, port=None)
        # Only here, so that a client's installation need not load the server.
        from weighbridge.server.up import down as stop  # noqa: PLC0415

        code = stop(settings)
        stopped = code == 0
        sentence = "Everything is stopped." if stopped else "Not everything could be stopped."
        output.show({"stopped": stopped, "data_dir": str(settings.paths.root)}, sentence)
    raise typer.Exit(code)


def new_admin_key(data_dir: DataDirectory = None, as_json: AsJson = False) -> None:
    """Make another admin key on the server's machine, when all are lost; prints the key and nothing else."""
    output = Output(as_json=as_json)
    with reported(output):
        settings = _settings(data_dir=data_dir, host=None, port=None)
        # Only here, so that a client's installation need not load the server.
        from weighbridge.server.admin_key import new_admin_key as make  # noqa: PLC0415

        key = make(settings)
        if as_json:
            output.show({"key": key}, "")
        else:
            sys.stdout.write(f"{key}\n")
            output.note("This is the only time the key is shown.")


def install(program: typer.Typer) -> None:
    panel = "Start and stop"
    program.command("up", rich_help_panel=panel)(up)
    program.command("down", rich_help_panel=panel)(down)
    program.command("new-admin-key", rich_help_panel=panel)(new_admin_key)


class _News:
    """Says what `up` reports, in the form that was asked for."""

    def __init__(self, output: Output, url: str, *, save: bool) -> None:
        self._output = output
        self._url = url
        self._save = save

    def progress(self, message: str) -> None:
        if self._output.as_json:
            _line({"event": "progress", "message": message})
        else:
            self._output.out.print(message, soft_wrap=True)

    def first_key(self, key: str) -> None:
        if self._save:
            profile = config.read_profile(profile_file())
            config.write_profile(
                profile_file(), config.with_keys(profile, self._url, {"admin_key": key})
            )
            self.progress(f"The admin key is stored in {profile_file()}.")
        elif self._output.as_json:
            _line({"event": "admin_key", "key": key})
        else:
            self._output.out.print(_welcome(key, self._url), soft_wrap=True)


def _welcome(key: str, url: str) -> str:
    elsewhere = f"    weighbridge config set base_url {url}\n" if url != BASE_URL_DEFAULT else ""
    return f"""
This is the admin key. It is shown this once; keep it like a password:

    {key}

What to do next, in another terminal:

{elsewhere}    weighbridge config set admin_key            # paste the key
    weighbridge org create ORG
    weighbridge key create both --org ORG --save
    weighbridge arch register ARCH BASE_MODEL_DIRECTORY
    weighbridge endpoint create ENDPOINT --arch ARCH --replicas 2
    weighbridge upload s3://BUCKET/PREFIX --arch ARCH --alias production --wait
    weighbridge deploy ENDPOINT production --wait
    weighbridge chat ENDPOINT "Hello!"
"""


def _line(document: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _settings(*, data_dir: Path | None, host: str | None, port: int | None) -> Settings:
    """Settings from the environment, with the options on top; SetupError names what is wrong."""
    given = {"data_dir": data_dir, "host": host, "port": port}
    try:
        return Settings.model_validate(
            {name: value for name, value in given.items() if value is not None}
        )
    except ValidationError as error:
        problems = "; ".join(
            f"WEIGHBRIDGE_{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise SetupError(f"The settings are not usable: {problems}") from None


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
