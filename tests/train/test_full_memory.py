"""A batch that does not fit in memory: one sentence, and smaller batches that resume the run."""

from pathlib import Path

import jax
import pytest
from tiny_runs import tiny_run_options

from flax_bigbird.train import TrainerState, TrainingError
from flax_bigbird.train.full_memory import explain_full_memory

FULL = "RESOURCE_EXHAUSTED: Out of memory allocating 123456 bytes.\nBuffers: ..."


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError(FULL), MemoryError()], ids=repr)
@pytest.mark.parametrize(
    ("tokens", "remedy"),
    [
        (256, "tokens_per_batch=128 and gradient_accumulation_steps=4, .* which resumes"),
        (128, "tokens_per_batch=64 and gradient_accumulation_steps=8, .* which resumes"),
        (64, "lower max_length=64 in a new run"),
    ],
)
def test_the_remedy(error, tokens, remedy):
    options = tiny_run_options(Path("x"), train_files=["a.jsonl"], gradient_accumulation_steps=2)
    state = TrainerState(10, 5, global_step=3)
    message = f"a batch must fit in memory; step 4 with {tokens} tokens .*{remedy}.*; gradient_chec"
    with (
        pytest.raises(TrainingError, match=message),
        explain_full_memory(options, tokens, state),
    ):
        raise error


def test_other_errors_are_not_changed():
    options = tiny_run_options(Path("x"), train_files=["a.jsonl"])
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="something else"),
        explain_full_memory(options, 256, TrainerState(10, 5)),
    ):
        raise error


@pytest.mark.parametrize(
    ("size", "remedy"),
    [
        (None, "give mini_batch_size=8 in a new run"),
        (4, "give mini_batch_size=2 in a new run"),
        (1, "lower max_length=64 in a new run"),
    ],
)
def test_the_remedy_for_batches_that_cannot_be_split(size, remedy):
    options = tiny_run_options(
        Path("x"), "embedding", train_files=["a.jsonl"], mini_batch_size=size
    )
    with (
        pytest.raises(TrainingError, match=remedy),
        explain_full_memory(options, 256, TrainerState(10, 5)),
    ):
        raise MemoryError
