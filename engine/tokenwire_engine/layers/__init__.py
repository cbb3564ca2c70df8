"""The parts of a decoder: plain classes over tensors, each loading its own shard of the weights."""
