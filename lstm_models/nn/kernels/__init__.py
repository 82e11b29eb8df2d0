"""The loop over time: which implementation runs, and the implementations."""
