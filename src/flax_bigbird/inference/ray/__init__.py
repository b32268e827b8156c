"""Prediction and embedding on the workers of a Ray cluster.

from flax_bigbird.inference.ray import predict_dataset, predict_files

predict_files("classifier", ["s3://bucket/documents"], "answers", concurrency=8)
predict_dataset(ray.data.read_parquet("s3://bucket/documents"), "classifier")
"""

import importlib
from typing import TYPE_CHECKING

from flax_bigbird import _lazy

try:
    importlib.import_module("ray.data")
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'prediction on Ray needs the package {error.name}: pip install "flax-bigbird[ray]"',
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from flax_bigbird.inference.ray.datasets import embed_dataset as embed_dataset
    from flax_bigbird.inference.ray.datasets import predict_dataset as predict_dataset
    from flax_bigbird.inference.ray.files import embed_files as embed_files
    from flax_bigbird.inference.ray.files import predict_files as predict_files
    from flax_bigbird.inference.ray.workers import RayEmbedder as RayEmbedder
    from flax_bigbird.inference.ray.workers import RayPredictor as RayPredictor
else:
    __getattr__, __dir__ = _lazy.attach(__name__, __file__)
