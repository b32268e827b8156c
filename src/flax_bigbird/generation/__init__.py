"""Text generation over an abstract decoder: greedy search, sampling and beam search."""
