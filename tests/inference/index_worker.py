"""Builds an index, and kills its own process at one of several points.

Arguments: the model, the folder, the index, and the point: `embed`, `data`, `manifest` or `remove`.
"""

import os
import signal
import sys

from flax_bigbird.inference import build_index, predictor
from flax_bigbird.inference.search import build, manifest, publish


def kill(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(function):
    def call(*arguments, **options):
        function(*arguments, **options)
        kill()

    return call


if __name__ == "__main__":
    model, folder, index, point = sys.argv[1:]
    predictor.MAX_ROWS_PER_CHUNK = 2
    if point == "data":
        publish.write_checksums = kill
    elif point == "manifest":
        manifest.Manifest.save = kill
    elif point == "remove":
        build.remove_other_data = kill
    on_progress = kill if point == "embed" else lambda files_done: None
    build_index(folder, index, model=model, chunk_tokens=8, on_progress=on_progress)
