"""Layer 2: from WebDataset shards to host batches; NumPy only."""
