"""Gateway workers of one machine: tables, requests, the hold."""
