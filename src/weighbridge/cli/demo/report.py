"""What the demo found, as a document and as a table; and its telling while it runs."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from weighbridge.cli.demo.traffic import Tally
from weighbridge.cli.output import Output, plain, table


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """`chats` are the answers to one question: by the first version, the second, and the first again."""

    steps: tuple[Step, ...]
    chats: tuple[str, ...]
    traffic: Tally
    seconds: float

    @property
    def ok(self) -> bool:
        """No answer failed or broke off, both versions answered, and the answer changed and changed back."""
        first, second, third = self.chats
        both = all(self.traffic.answered.get(version, 0) > 0 for version in ("1", "2"))
        return self.traffic.clean and both and first == third != second

    def document(self) -> Mapping[str, object]:
        return {
            "ok": self.ok,
            "requests": {
                "answered": dict(self.traffic.answered),
                "failed": self.traffic.failed,
                "cut": self.traffic.cut,
                "problems": list(self.traffic.problems),
            },
            "chats": list(self.chats),
            "steps": [
                {"name": step.name, "seconds": round(step.seconds, 2)} for step in self.steps
            ],
            "seconds": round(self.seconds, 2),
        }

    def view(self) -> Group:
        answered = [
            (f"answered by version {version}", number)
            for version, number in self.traffic.answered.items()
        ]
        rows = [*answered, ("failed", self.traffic.failed), ("cut off", self.traffic.cut)]
        steps = [(step.name, f"{step.seconds:.1f} s") for step in self.steps]
        verdict = (
            "No request failed, and none was cut."
            if self.ok
            else "Not as it should be: "
            + (" | ".join(self.traffic.problems) or "see the answers above")
        )
        return Group(
            "",
            table(("STEP", "TIME"), [*steps, ("all of it", f"{self.seconds:.1f} s")]),
            "",
            table(("REQUESTS DURING THE ROLLOUTS", "COUNT"), rows),
            "",
            Text(plain(verdict), style="bold green" if self.ok else "bold red"),
        )


class Telling:
    """Says each step as it begins and keeps how long it took."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._steps: list[Step] = []
        self._began = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        if not self._output.as_json:
            self._output.out.print(Text(f"▸ {name}", style="bold"))
        began = time.monotonic()
        yield
        self._steps.append(Step(name, time.monotonic() - began))

    def detail(self, text: str) -> None:
        if not self._output.as_json:
            self._output.out.print(Text(f"    {plain(text)}"), soft_wrap=True)

    def result(self, chats: tuple[str, ...], traffic: Tally) -> Result:
        return Result(tuple(self._steps), chats, traffic, time.monotonic() - self._began)
