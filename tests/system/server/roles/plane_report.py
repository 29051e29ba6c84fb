"""What a course of control planes under kills came to, as the page that says so."""

import json
import os
import platform
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from weighbridge.cli.demo.traffic import Tally

PLANES = ("plane-1", "plane-2", "plane-3")


@dataclass
class Report:
    seed: int
    lasted_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    takeovers_s: list[float] = field(default_factory=list)
    deployments: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    receipts: int = 0
    calls_repeated: int = 0
    rollout_longest_s: float = 0.0
    leases: int = 0
    tally: Tally | None = None
    checks: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)

    def document(self) -> dict:
        return {
            "seed": self.seed,
            "minutes": round(self.lasted_s / 60, 1),
            "control_planes": len(PLANES),
            "faults": dict(self.faults),
            "processes_killed": self.kills,
            "leases_taken": self.leases,
            "takeover_longest_s": round(max(self.takeovers_s, default=0.0), 1),
            "deployments_by_end": dict(self.deployments),
            "rollout_longest_s": round(self.rollout_longest_s, 1),
            "versions_by_end": dict(self.versions),
            "receipts_verified": self.receipts,
            "calls_repeated": self.calls_repeated,
            "streams": {
                "whole": sum(self.tally.answered.values()),
                "failed": self.tally.failed,
                "cut": self.tally.cut,
            },
            "checks": dict(sorted(self.checks.items())),
            "violations": self.breaches,
            "conditions": {
                "python": platform.python_version(),
                "cores": os.cpu_count(),
                "load_average_1m": round(os.getloadavg()[0], 1),
            },
        }

    def write(self, directory: Path) -> None:
        document = self.document()
        (directory / "control-planes.json").write_text(json.dumps(document, indent=1) + "\n")
        streams = document["streams"]
        lines = [
            "# Three control planes that die at random",
            "",
            "`make soak-control` writes this page.",
            "",
            (
                f"{document['minutes']:g} minutes with seed {self.seed}: {self.kills} control planes killed with "
                f"-9 and {self.faults['leader frozen']} frozen, {self.leases} leases taken (the longest way to one: "
                f"{document['takeover_longest_s']:g} s), while {self.deployments.total()} deployments and "
                f"{self.versions.total()} uploads went on under {streams['whole']:,} streams; "
                f"**{len(self.breaches)} violations**, {streams['failed']} streams failed, {streams['cut']} cut; "
                f"the longest rollout took {document['rollout_longest_s']:g} s."
            ),
            "",
            (
                f"{self.receipts} receipts verified; {self.calls_repeated:,} times a management call was made "
                "again, with its `Idempotency-Key`, because a plane died with it or none was there. Real "
                "PostgreSQL, gateway, node agent "
                f"and llama.cpp engines on {os.cpu_count()} cores; load {document['conditions']['load_average_1m']} "
                "at the end."
            ),
            "",
            *_table("Faults", self.faults),
            *_table("Deployments by end", self.deployments),
            *_table("Versions by end", self.versions),
            *_table("Invariant, times checked", self.checks),
            *(f"* {words}" for words in self.breaches),
        ]
        (directory / "control-planes.md").write_text("\n".join(lines).rstrip() + "\n")


def _table(title: str, counts: Counter) -> list[str]:
    rows = [f"| {name} | {count:,} |" for name, count in sorted(counts.items())]
    return [f"| {title} | |", "|---|---:|", *rows, ""]
