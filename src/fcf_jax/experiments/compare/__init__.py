"""`fcf compare`: replicates of FCF and of ALS, side by side."""
