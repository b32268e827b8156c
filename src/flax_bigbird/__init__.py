"""BigBird, the long-document transformer, for JAX and Flax."""
