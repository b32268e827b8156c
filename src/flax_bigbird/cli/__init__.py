"""The `bigbird` command: a thin layer over `flax_bigbird.train` and `flax_bigbird.inference`."""
