"""`fcf audit`: attacks on what the server sees."""
