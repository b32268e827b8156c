"""The linen modules that the models are built from: embeddings, attention, layers and heads."""
