"""Compare an answer with its checks, and put the difference into few words. Pure; nothing here can take long."""

from collections.abc import Sequence
from dataclasses import dataclass

from weighbridge.acceptance.model import Answer, Checks, Failure, Probe, ReferenceToken, Token

SHOWN_CHARS = 60
QUESTION_CHARS = 80
LOGPROB_MIN = -100.0
"""Stands for what an engine calls impossible, and for what it does not list."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Mean absolute difference over `compared` tokens; `parted_at` is the first place where another token came."""

    mean: float
    compared: int
    parted_at: int | None


def plain_failures(checks: Checks, answer: Answer) -> list[Failure]:
    """Of all checks but patterns, schemas (see `judging`) and drift."""
    failures = []
    if checks.not_empty and not answer.text.strip():
        failures.append(Failure("not_empty", "the answer is empty"))
    if checks.equals is not None and answer.text.strip() != checks.equals.strip():
        failures.append(Failure("equals", difference(checks.equals.strip(), answer.text.strip())))
    if checks.contains is not None and checks.contains not in answer.text:
        words = f"expected {shown(checks.contains)} in it, got {shown(answer.text)}"
        failures.append(Failure("contains", words))
    limits = checks.max_latency_s
    if limits is not None:
        for name, limit_s, took_s in (
            ("first_token", limits.first_token, answer.first_token_s),
            ("total", limits.total, answer.total_s),
        ):
            if limit_s is not None and took_s > limit_s:
                words = f"{name} took {took_s:.2f} s, at most {limit_s:g} s are allowed"
                failures.append(Failure("max_latency_s", words))
    return failures


def drift(expected: Sequence[ReferenceToken], got: Sequence[Token]) -> Drift | None:
    """Compare while both follow the same tokens, and once more where they part; None without a token."""
    differences: list[float] = []
    for place, (wanted, token) in enumerate(zip(expected, got, strict=False)):
        if wanted.token == token.token:
            differences.append(abs(_bounded(wanted.logprob) - _bounded(token.logprob)))
            continue
        # Not listed means less likely than everything listed.
        least = min(token.alternatives.values(), default=LOGPROB_MIN)
        found = token.alternatives.get(wanted.token, least)
        differences.append(abs(_bounded(wanted.logprob) - _bounded(found)))
        return Drift(sum(differences) / len(differences), len(differences), place)
    if not differences:
        return None
    return Drift(sum(differences) / len(differences), len(differences), None)


def drift_failure(limit: float, measured: Drift, expected: str, got: str) -> Failure | None:
    if measured.mean <= limit:
        return None
    words = f"{measured.mean:.3f} over {measured.compared} tokens, at most {limit:g} is allowed"
    if measured.parted_at is not None:
        words += f"; the text {difference(expected, got)}"
    return Failure("logprob_drift_max", words)


def difference(expected: str, got: str) -> str:
    """Where two texts part, with what stands there in each."""
    at = next(
        (place for place, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b),
        min(len(expected), len(got)),
    )
    start = max(0, at - SHOWN_CHARS // 3)
    return (
        f"differs at character {at + 1}: expected {_window(expected, start)}, "
        f"got {_window(got, start)}"
    )


def shown(text: str) -> str:
    return _window(text, 0)


def failure_text(probe: Probe, failures: Sequence[Failure]) -> str:
    """One line: which probe, which prompt, which check, and the difference."""
    first = failures[0]
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    question = probe.question.strip()
    if len(question) > QUESTION_CHARS:
        question = question[: QUESTION_CHARS - 1] + "…"
    return (
        f"acceptance probe '{probe.name}' failed: prompt {_quoted(question)}, "
        f"{first.check}: {first.detail}{more}"
    )


def _window(text: str, start: int) -> str:
    if not text:
        return "nothing"
    end = start + SHOWN_CHARS
    return _quoted(("…" if start else "") + text[start:end] + ("…" if end < len(text) else ""))


def _quoted(text: str) -> str:
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return f'"{line}"'


def _bounded(logprob: float) -> float:
    return max(LOGPROB_MIN, logprob)
