"""Prefect flows, one a file, their recipes, and the command line."""
