"""Embeds in a process of its own, which may be killed; `embed_worker.py MODEL INPUT OUTPUT N`.

N is the number of tokens of a chunk, or 0 for a vector per document.
"""

import sys

from flax_bigbird.inference import embed_files, load_embedder, predictor

if __name__ == "__main__":
    model, source, target, chunk = sys.argv[1:]
    predictor.MAX_ROWS_PER_CHUNK = 3
    embed_files(load_embedder(model, chunk_tokens=int(chunk) or None), [source], target)
