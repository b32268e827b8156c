"""Prediction and evaluation with trained models, in Python and for files of any size.

from flax_bigbird.inference import evaluate, load_predictor, predict_files

classify = load_predictor("classifier", max_length=1024)
classify("The jury finds ...")["label"]
predict_files(classify, ["unlabeled.jsonl"], "answers.jsonl", keep=["id"])
evaluate("classifier", ["labeled.jsonl"])["metrics"]
"""

from typing import TYPE_CHECKING

from flax_bigbird import _lazy

if TYPE_CHECKING:
    from flax_bigbird._signals import deferred_signals as deferred_signals
    from flax_bigbird.data.errors import DataError as DataError
    from flax_bigbird.data.errors import OptionError as OptionError
    from flax_bigbird.inference.bulk_embedding import embed_files as embed_files
    from flax_bigbird.inference.bulk_prediction import predict_files as predict_files
    from flax_bigbird.inference.embedder import Embedder as Embedder
    from flax_bigbird.inference.embedder_loading import load_embedder as load_embedder
    from flax_bigbird.inference.encode_options import ChunkEmbeddings as ChunkEmbeddings
    from flax_bigbird.inference.evaluation import evaluate as evaluate
    from flax_bigbird.inference.jobs import PredictionInterrupted as PredictionInterrupted
    from flax_bigbird.inference.mteb_encoder import MtebEncoder as MtebEncoder
    from flax_bigbird.inference.options import embed_options as embed_options
    from flax_bigbird.inference.options import evaluate_options as evaluate_options
    from flax_bigbird.inference.options import predict_options as predict_options
    from flax_bigbird.inference.partial_output import PredictionError as PredictionError
    from flax_bigbird.inference.predictor import Predictor as Predictor
    from flax_bigbird.inference.predictor import load_predictor as load_predictor
    from flax_bigbird.inference.reranker import Reranker as Reranker
    from flax_bigbird.inference.reranker import load_reranker as load_reranker
    from flax_bigbird.inference.search.build import build_index as build_index
    from flax_bigbird.inference.search.index import SearchIndex as SearchIndex
    from flax_bigbird.inference.search.index import SearchResult as SearchResult
    from flax_bigbird.inference.search.index import open_index as open_index
    from flax_bigbird.inference.search.summary import IndexSummary as IndexSummary
else:
    __getattr__, __dir__ = _lazy.attach(__name__, __file__)
