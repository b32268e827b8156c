"""Says what to do when a training step or an evaluation does not fit in memory."""

import contextlib
from collections.abc import Iterator

import jax

from flax_bigbird._messages import first_line
from flax_bigbird.tasks.registry import get_task
from flax_bigbird.train.arguments import TrainingArguments
from flax_bigbird.train.errors import TrainingError
from flax_bigbird.train.state import TrainerState

_SIGNS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")


@contextlib.contextmanager
def explain_full_memory(
    options: TrainingArguments, tokens: int, state: TrainerState
) -> Iterator[None]:
    """Raises `TrainingError` with a remedy if the code inside runs out of memory.

    Args:
      options: The options of the run, with the batches that it was started with.
      tokens: The maximum number of tokens whose gradient is computed at once.
      state: The state of the run.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in _SIGNS):
            raise
        raise TrainingError(_message(options, tokens, state, error)) from error


def _message(
    options: TrainingArguments, tokens: int, state: TrainerState, error: BaseException
) -> str:
    steps = options.gradient_accumulation_steps * (options.tokens_per_batch // tokens)
    length = options.length
    if not get_task(str(options.task)).splits_batches:
        now = getattr(options, "mini_batch_size", None)
        smaller = max(1, now // 2) if now else 8
        remedy = f"give mini_batch_size={smaller} in a new run"
        if now == 1:
            remedy = f"lower max_length={length} in a new run, or train a smaller model"
    elif tokens % 2 == 0 and tokens // 2 >= length:
        remedy = (
            f"run the same command again with tokens_per_batch={tokens // 2} and "
            f"gradient_accumulation_steps={2 * steps}, or smaller batches, which resumes "
            "the run from its last checkpoint, if it has one, and learns the same"
        )
    else:
        remedy = f"lower max_length={length} in a new run, or train a smaller model"
    if options.gradient_checkpointing == "none":
        remedy += "; gradient_checkpointing saves memory, too, and may be set in the same way"
    return (
        f"a batch must fit in memory; step {state.global_step + 1} with {tokens} tokens per batch "
        f"does not ({first_line(error)}): {remedy}"
    )
