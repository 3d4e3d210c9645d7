"""GPU kernels (Pallas, Triton) for a full round on one device; `full_round` is what the package calls."""
