"""Synthetic datasets: the tutorial's, and the literature's tasks."""
