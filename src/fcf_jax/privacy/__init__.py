"""Privacy: clipping and noise, accounting, secure sums, and the attacks that test them."""
