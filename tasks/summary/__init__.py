"""Reports as text: tables and findings."""
