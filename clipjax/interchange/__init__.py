"""Layer 3: weights and configs of other codebases, read and written."""
