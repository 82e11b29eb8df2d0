"""Reports as text: tables and summaries."""
