"""Linen modules of BigBird: embeddings, attention, layers, heads."""
