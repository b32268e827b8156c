"""AdamW as transformers are trained: decay of matrices only, warm-up, a schedule, clipping."""

from typing import Any

import jax
import optax

from flax_bigbird.train.options import TrainOptions


def learning_rate(options: TrainOptions, steps: int) -> optax.Schedule:
    """From 0 to `learning_rate` in the warm-up, then by `schedule` towards 0 at `steps`."""
    warmup = min(round(options.warmup_share * steps), steps)
    rest = max(1, steps - warmup)
    peak = options.learning_rate
    after = {
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "constant": lambda: optax.constant_schedule(peak),
    }[options.schedule]()
    if not warmup:
        return after
    # The first step of a warm-up from 0 would change nothing.
    rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])


def decayed(params: Any) -> Any:
    """True for the leaves that decay: matrices, and neither biases nor LayerNorms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def optimizer(options: TrainOptions, steps: int) -> optax.GradientTransformation:
    """Clipping and AdamW of a run of `steps` steps."""
    adamw = optax.adamw(
        learning_rate(options, steps),
        b1=options.adam_b1,
        b2=options.adam_b2,
        eps=options.adam_epsilon,
        weight_decay=options.weight_decay,
        mask=decayed,
    )
    if not options.clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), adamw)
