"""Predicts in a process of its own, which may be killed; `predict_worker.py MODEL INPUT OUTPUT`."""

import sys

from flax_bigbird.inference import load_predictor, predict_files, predictor

if __name__ == "__main__":
    model, source, target = sys.argv[1:]
    predictor.MAX_ROWS_PER_CHUNK = 3
    predict_files(load_predictor(model), [source], target)
