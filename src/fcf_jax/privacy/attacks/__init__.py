"""What a curious server learns from what it sees: attacks, and how well they do."""
