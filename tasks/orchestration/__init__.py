"""Retries, cached results, state hooks, notifications, locks and the search for runs to resume."""
