"""Public data sets, and how to get them."""
