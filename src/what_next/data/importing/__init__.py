"""Reading the tables of others: which column is what, times, ids, attributes, and what is wrong with them."""
