"""Turn the columns of a table into numeric series."""
