"""Which units answer to which concepts, and how sure that is; NumPy only."""
