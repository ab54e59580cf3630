"""Which tensors of a quant cost distance and which cost answers, from hybrids of base and quant."""
