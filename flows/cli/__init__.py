"""The command line: `lstm-flows`."""
