"""Atomic file replacement, checksums and the user-facing error classes."""
