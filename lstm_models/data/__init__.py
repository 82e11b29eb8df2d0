"""Datasets: read, clean and split tables, and load them in batches."""
