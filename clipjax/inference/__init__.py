"""Layer 3: a trained model as a person uses it: encode images and texts, load from files."""
