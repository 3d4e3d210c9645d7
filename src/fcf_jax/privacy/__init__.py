"""Privacy as pure functions: clipping, noise, accounting, secure sums, and the attacks that measure it."""
