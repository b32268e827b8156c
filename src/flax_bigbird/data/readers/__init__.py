"""Readers of data files: each yields the rows of one file, with the place where a row is.

All commands read files through these readers, so that training, evaluation, and prediction see the
same rows.
"""
