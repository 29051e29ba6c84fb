"""Rollouts under real load: streams at a model's pace, failing versions, and kill -9 in the middle."""

from benchmarks.rollouts.program import run

__all__ = ["run"]
