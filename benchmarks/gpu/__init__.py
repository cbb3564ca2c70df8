"""What a GPU makes of this engine: ceilings, kernels, steps, throughput, the whole stack and the start."""
