"""Recording strategies beside the closed loop, rounds of DAgger, and demonstrations."""
