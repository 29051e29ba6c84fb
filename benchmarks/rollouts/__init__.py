"""Rollouts under real load: streams at a model's pace, failing versions, and kill -9 in the middle."""
