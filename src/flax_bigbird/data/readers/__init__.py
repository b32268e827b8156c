"""Readers of data files: each yields the rows of one file, with the line or row for messages.

All commands read files through these readers, so that training, evaluation, and prediction see the
same rows.
"""
