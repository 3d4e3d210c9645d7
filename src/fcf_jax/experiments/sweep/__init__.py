"""`fcf sweep`: many federations side by side, and what their accuracy costs."""
