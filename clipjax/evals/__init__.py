"""Layer 3: zero-shot tasks over encode functions; NumPy only."""
