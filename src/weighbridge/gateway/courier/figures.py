"""The courier's figures for the probe port: when the database last answered it, so that silence shows as age."""

import os
from pathlib import Path

COURIER_FIGURES = "courier.prom"
"""In `run/`; without a courier there is none."""


def write_courier_figures(run: Path, looked_unix_s: float, reported_unix_s: float) -> None:
    """0 for what has not happened yet. Without fsync: a file that a crash takes is written again in a second."""
    lines = []
    for name, help_text, value in (
        ("tables_looked", "When the tables were last compared with the database's.", looked_unix_s),
        ("reported", "When the database last took a report of this host.", reported_unix_s),
    ):
        metric = f"weighbridge_gateway_host_{name}_timestamp_seconds"
        lines += [
            f"# HELP {metric} {help_text}",
            f"# TYPE {metric} gauge",
            f"{metric} {value:.3f}",
        ]
    temporary = run / f".{COURIER_FIGURES}.{os.getpid()}"
    temporary.write_text("\n".join([*lines, ""]), encoding="utf-8")
    temporary.rename(run / COURIER_FIGURES)


def read_courier_figures(run: Path) -> bytes:
    """However old: their age is what they say."""
    try:
        return (run / COURIER_FIGURES).read_bytes()
    except FileNotFoundError:
        return b""


def forget_courier_figures(run: Path) -> None:
    """For a gateway without a courier: nobody must take an earlier one's silence for a fault."""
    (run / COURIER_FIGURES).unlink(missing_ok=True)
