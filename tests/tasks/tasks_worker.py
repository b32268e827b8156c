"""Predicts in a process of its own, to be killed; a small part at a time."""

import sys

from flax_bigbird.tasks import base, load, predict

if __name__ == "__main__":
    model, source, target = sys.argv[1:]
    base.ROWS_AHEAD = 3
    predict(load(model), model, [source], target)
