"""How attention is computed: one module per implementation, each with the same contract."""
