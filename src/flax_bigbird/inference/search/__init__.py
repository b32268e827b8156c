"""Indexes of folders of long texts: built incrementally, and searched by meaning and by words.

`build` scans a folder, embeds what is new in it, and writes the index; `index` opens and searches
it. Extra `search`: usearch holds the vectors, bm25s the words, and Parquet the texts.
"""
