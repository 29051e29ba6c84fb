"""Weighbridge: a self-hosted Management API for dedicated LLM inference endpoints."""
