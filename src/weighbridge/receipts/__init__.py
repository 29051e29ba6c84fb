"""Receipts: the append-only, hash-chained record that each deployment leaves."""
