"""Read tables from files, folders, URLs and databases."""
