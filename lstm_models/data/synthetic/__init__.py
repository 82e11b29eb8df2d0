"""Synthetic datasets: the tutorial's data and the adding problem."""
