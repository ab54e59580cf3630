"""GGUF files: metadata, tensors, split parts, digests; nothing is loaded."""
