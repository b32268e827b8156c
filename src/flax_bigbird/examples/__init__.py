"""Examples that are installed with the package; they use its public API only."""
