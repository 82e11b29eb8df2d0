"""Prefect flows, one per module, with their recipes and the command line."""
