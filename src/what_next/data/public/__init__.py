"""Public data sets and their download."""
