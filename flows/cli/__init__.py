"""Command line `lstm-flows`."""
