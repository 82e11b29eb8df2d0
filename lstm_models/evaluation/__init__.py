"""Evaluate networks and baselines: metrics, intervals, drift, and the choice of a champion."""
