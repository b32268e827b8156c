"""Checkpoints of all tasks, a server that serves them, and the predictors that it must equal."""

import functools
from typing import Any

import pytest
from server_process import FLAGS, ServerProcess
from tiny_checkpoints import Checkpoints

from flax_bigbird.inference import load_embedder, load_predictor, load_reranker

MODELS = {
    "embedding": "FlaxBigBirdModel",
    "sequence-classification": "FlaxBigBirdForSequenceClassification",
    "reranking": "FlaxBigBirdForSequenceClassification",
    "token-classification": "FlaxBigBirdForTokenClassification",
    "question-answering": "FlaxBigBirdForQuestionAnswering",
    "masked-lm": "FlaxBigBirdForMaskedLM",
    "causal-lm": "FlaxBigBirdForCausalLM",
}
CHANGES: dict[str, dict[str, Any]] = {
    "reranking": {"id2label": {0: "LABEL_0"}},
    "token-classification": {"id2label": {0: "O", 1: "B-PLACE", 2: "I-PLACE"}},
    "causal-lm": {"is_decoder": True},
}


@pytest.fixture(scope="package")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    """The directory of a checkpoint for each task."""
    make = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    return {task: make(name, **CHANGES.get(task, {})) for task, name in MODELS.items()}


@pytest.fixture(scope="package")
def server(checkpoints):
    """A server for all checkpoints, once it is ready."""
    names = [f"{task}={folder}" for task, folder in checkpoints.items()]
    process = ServerProcess(*names, *FLAGS)
    try:
        process.wait_for("ready")
        yield process
    finally:
        process.close()


@pytest.fixture(scope="package")
def offline(checkpoints):
    """Returns a function from a task and options to the predictor or embedder of a checkpoint."""

    @functools.cache
    def load(task: str, **options: Any) -> Any:
        if task == "embedding":
            return load_embedder(checkpoints[task], min_bucket_length=32, **options)
        if task == "reranking":
            return load_reranker(checkpoints[task], min_bucket_length=32, **options)
        return load_predictor(checkpoints[task], task=task, min_bucket_length=32, **options)

    return load
