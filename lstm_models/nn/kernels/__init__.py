"""Implementations of the loop over time, and the function that selects one."""
