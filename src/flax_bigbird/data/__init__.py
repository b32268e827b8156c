"""From files to batches: readers, tokenization, windows, buckets, packing, and masking.

The modules here hold plain functions on rows, tokens, and NumPy arrays. They know neither the tasks
nor Flax. Optional libraries (`datasets`, `grain`, `pyarrow`, `sentencepiece`) are imported where
they are used.
"""
