"""Sparse autoencoders: embeddings of pictures and texts as few latents of one dictionary."""
