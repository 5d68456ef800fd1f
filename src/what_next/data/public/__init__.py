"""Public data sets, fetched from their publishers by name."""
