"""Records: what a run leaves for tables, and how it was made."""
