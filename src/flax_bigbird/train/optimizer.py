"""AdamW with warmup, a learning rate schedule, weight decay of matrices and gradient clipping."""

from typing import Any

import jax
import optax

from flax_bigbird.train.arguments import TrainingArguments


def learning_rate_schedule(arguments: TrainingArguments, max_steps: int) -> optax.Schedule:
    """Returns the learning rate by step.

    It rises linearly to `learning_rate` during the first `warmup_ratio` of the steps, then follows
    `lr_scheduler_type` to 0 at `max_steps` ("linear", "cosine") or stays ("constant").

    Args:
      arguments: The options of the run.
      max_steps: The number of optimizer steps of the run.
    """
    warmup_steps = min(round(arguments.warmup_ratio * max_steps), max_steps)
    decay_steps = max(1, max_steps - warmup_steps)
    peak = arguments.learning_rate
    after_warmup = {
        "linear": lambda: optax.linear_schedule(peak, 0.0, decay_steps),
        "cosine": lambda: optax.cosine_decay_schedule(peak, decay_steps),
        "constant": lambda: optax.constant_schedule(peak),
    }[arguments.lr_scheduler_type]()
    if not warmup_steps:
        return after_warmup
    # The warmup starts at peak / warmup_steps: a rate of 0 would make the first step useless.
    warmup = optax.linear_schedule(peak / warmup_steps, peak, max(1, warmup_steps - 1))
    return optax.join_schedules([warmup, after_warmup], [warmup_steps])


def weight_decay_mask(params: Any) -> Any:
    """Returns True for matrices, which decay, and False for biases and LayerNorm parameters."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def create_optimizer(
    arguments: TrainingArguments, max_steps: int
) -> optax.GradientTransformationExtraArgs | optax.GradientTransformation:
    """Returns AdamW, after clipping by the global norm unless `max_grad_norm` is 0.

    Args:
      arguments: The options of the run.
      max_steps: The number of optimizer steps of the run.
    """
    adamw = optax.adamw(
        learning_rate_schedule(arguments, max_steps),
        b1=arguments.adam_beta1,
        b2=arguments.adam_beta2,
        eps=arguments.adam_epsilon,
        weight_decay=arguments.weight_decay,
        mask=weight_decay_mask,
    )
    if not arguments.max_grad_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(arguments.max_grad_norm), adamw)
