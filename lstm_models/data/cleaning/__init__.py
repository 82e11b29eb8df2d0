"""Turn the columns of a table into series of numbers."""
