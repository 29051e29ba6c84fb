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
from weighbridge.clock import Clock
from weighbridge.errors import SetupError
from weighbridge.sdk.client import BASE_URL_DEFAULT
from weighbridge.settings import Settings, unknown_names

DataDirectory = Annotated[
    Path | None,
    typer.Option(help="What the server keeps; else WEIGHBRIDGE_DATA_DIR or ~/.weighbridge."),
]

TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over",
        help="Follow what runs here: only what has changed is replaced, and no request fails.",
    ),
]


def up(  # noqa: PLR0917 - each is an option of the command line
    data_dir: DataDirectory = None,
    host: Annotated[str | None, typer.Option(help="Address the public port listens on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The public port.")] = None,
    save_key: Annotated[
        bool,
        typer.Option(
            "--save-key", help="Store the first admin key in the profile file, do not print it."
        ),
    ] = False,
    take_over: TakeOver = False,
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

        code = run(
            settings, on_event=news.progress, on_first_key=news.first_key, take_over=take_over
        )
    raise typer.Exit(code)


def serve(
    roles: Annotated[
        str,
        typer.Option(
            help="With commas: agent, gateway, api, controller, weights; see docs/operating/roles.md."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Of the api or controller, where a data directory has several."),
    ] = None,
    data_dir: DataDirectory = None,
    take_over: TakeOver = False,
    as_json: AsJson = False,
) -> None:
    """Run some roles of a server here and stay; the others run elsewhere on the same database."""
    output = Output(as_json=as_json)
    with reported(output):
        settings = _settings(data_dir=data_dir, host=None, port=None)
        # Only here, so that a client's installation need not load the server.
        from weighbridge.server.roles.model import read_roles  # noqa: PLC0415
        from weighbridge.server.roles.serve import serve as run  # noqa: PLC0415

        news = _News(output, "", save=False)
        code = run(
            settings,
            read_roles(roles),
            name=name,
            on_event=news.progress,
            take_over=take_over,
        )
    raise typer.Exit(code)


def migrate(data_dir: DataDirectory = None, as_json: AsJson = False) -> None:
    """Bring the schema of WEIGHBRIDGE_DATABASE_URL to this version; `up` does that by itself."""
    output = Output(as_json=as_json)
    with reported(output):
        settings = _settings(data_dir=data_dir, host=None, port=None)
        # Only here, so that a client's installation need not load the server.
        from weighbridge.server.roles.serve import database_url  # noqa: PLC0415
        from weighbridge.storage.schema.migrate import migrate as apply  # noqa: PLC0415

        schema = apply(database_url(settings))
        output.show({"schema": schema}, f"The database is at schema {schema}.")


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


def backup(
    file: Annotated[Path, typer.Argument(help="Written anew, for its owner alone.")],
    with_secrets: Annotated[
        bool,
        typer.Option(
            "--with-secrets", help="The pepper too; without it no key works on another machine."
        ),
    ] = False,
    data_dir: DataDirectory = None,
    as_json: AsJson = False,
) -> None:
    """Back up the database, as it is at one moment, whether the server runs or not; not the weight store."""
    output = Output(as_json=as_json)
    with reported(output):
        settings = _settings(data_dir=data_dir, host=None, port=None)
        # Only here, so that a client's installation need not load the server.
        from weighbridge.server.rescue.backup import backup as run  # noqa: PLC0415

        facts = run(settings, file, with_secrets=with_secrets, now=Clock().now())
        document = {"file": str(file), "schema": facts.schema, "taken_at": facts.taken_at}
        output.show(document, f"The database as of {facts.taken_at} is in {file}.")


def restore(
    file: Annotated[Path, typer.Argument(help="What `weighbridge backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove what the database has in it.")
    ] = False,
    data_dir: DataDirectory = None,
    as_json: AsJson = False,
) -> None:
    """Put a backup into the database of a server that is stopped; no version number is given twice."""
    output = Output(as_json=as_json)
    with reported(output):
        settings = _settings(data_dir=data_dir, host=None, port=None)
        # Only here, so that a client's installation need not load the server.
        from weighbridge.server.rescue.restore import restore as run  # noqa: PLC0415

        done = run(settings, file, replace=replace, now=Clock().now())
        if not done.keys_work:
            output.note(
                "The keys in this backup were made under another pepper, so none of them works here: put the old "
                "secrets/pepper in place, or make new ones, beginning with `weighbridge new-admin-key`."
            )
        document = {
            "taken_at": done.facts.taken_at,
            "numbers_floor": done.numbers_floor,
            "keys_work": done.keys_work,
        }
        output.show(
            document,
            f"The database is as of {done.facts.taken_at}. New versions are numbered from "
            f"{done.numbers_floor + 1}, above all that were given since.",
        )


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
    program.command("serve", rich_help_panel=panel)(serve)
    program.command("migrate", rich_help_panel=panel)(migrate)
    program.command("down", rich_help_panel=panel)(down)
    program.command("backup", rich_help_panel=panel)(backup)
    program.command("restore", rich_help_panel=panel)(restore)
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
