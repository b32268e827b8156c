"""AdamW and Muon, with learning rate schedules, weight decay of matrices and gradient clipping."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from flax_bigbird.train.arguments import DEFAULT_LEARNING_RATE, TrainingArguments
from flax_bigbird.train.layerwise_decay import scale_by_layer

MUON_MOMENTUM = 0.95
NEWTON_SCHULZ_STEPS = 5
NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
MUON_RMS = 0.2  # of an update before the learning rate, about that of AdamW (arXiv:2502.16982, 2.2)


def learning_rate_schedule(arguments: TrainingArguments, max_steps: int) -> optax.Schedule:
    """Returns the learning rate by step.

    It rises linearly to `learning_rate` during the first `warmup_ratio` of the steps, then follows
    `lr_scheduler_type`: to 0 at `max_steps` ("linear", "cosine"), unchanged ("constant"), or
    unchanged until it falls linearly to 0 during the last `decay_ratio` of the steps
    ("warmup_stable_decay").

    Args:
      arguments: The options of the run.
      max_steps: The number of optimizer steps of the run.
    """
    warmup_steps = min(round(arguments.warmup_ratio * max_steps), max_steps)
    remaining = max(1, max_steps - warmup_steps)
    given = arguments.learning_rate
    peak = DEFAULT_LEARNING_RATE if given is None else given
    after_warmup = {
        "linear": lambda: optax.linear_schedule(peak, 0.0, remaining),
        "cosine": lambda: optax.cosine_decay_schedule(peak, remaining),
        "constant": lambda: optax.constant_schedule(peak),
        "warmup_stable_decay": lambda: _stable_then_linear(
            peak, remaining, min(round(arguments.decay_ratio * max_steps), remaining)
        ),
    }[arguments.lr_scheduler_type]()
    if not warmup_steps:
        return after_warmup
    # The warmup starts at peak / warmup_steps: a rate of 0 would make the first step useless.
    warmup = optax.linear_schedule(peak / warmup_steps, peak, max(1, warmup_steps - 1))
    return optax.join_schedules([warmup, after_warmup], [warmup_steps])


def _stable_then_linear(peak: float, steps: int, decay_steps: int) -> optax.Schedule:
    """Returns `peak` until the last `decay_steps` of the steps, in which it falls to 0."""
    if not decay_steps:
        return optax.constant_schedule(peak)
    return optax.linear_schedule(peak, 0.0, decay_steps, transition_begin=steps - decay_steps)


def weight_decay_mask(params: Any) -> Any:
    """Returns True for matrices, which decay, and False for biases and LayerNorm parameters."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def optimizer_labels(params: Any) -> Any:
    """Returns which parameters Muon updates ("muon"), and which AdamW ("adamw").

    Muon updates the matrices between hidden states, the kernels of the encoder's layers. They are
    stored as `[inputs, outputs]`, with the heads of attention side by side. AdamW updates the
    rest: embeddings, biases, LayerNorm parameters, the pooler and the heads (arXiv:2502.16982,
    section 2.1).
    """

    def label(path: tuple[Any, ...], leaf: Any) -> str:
        names = [entry.key for entry in path]
        is_hidden = "encoder" in names and names[-1] == "kernel" and leaf.ndim == 2
        return "muon" if is_hidden else "adamw"

    return jax.tree_util.tree_map_with_path(label, params)


def create_optimizer(
    arguments: TrainingArguments, max_steps: int
) -> optax.GradientTransformationExtraArgs | optax.GradientTransformation:
    """Returns the optimizer `optim`, after clipping by the global norm unless `max_grad_norm` is 0.

    Args:
      arguments: The options of the run.
      max_steps: The number of optimizer steps of the run.
    """
    schedule = learning_rate_schedule(arguments, max_steps)
    optimizer: Any = optax.adamw(
        schedule,
        b1=arguments.adam_beta1,
        b2=arguments.adam_beta2,
        eps=arguments.adam_epsilon,
        weight_decay=arguments.weight_decay,
        mask=weight_decay_mask,
    )
    if arguments.optim == "muon":
        muon = _muon(schedule, arguments.weight_decay)
        optimizer = optax.multi_transform({"muon": muon, "adamw": optimizer}, optimizer_labels)
    parts = [optimizer]
    if arguments.max_grad_norm:
        parts.insert(0, optax.clip_by_global_norm(arguments.max_grad_norm))
    if arguments.layerwise_lr_decay != 1:
        parts.append(scale_by_layer(arguments.layerwise_lr_decay))
    return optax.chain(*parts) if len(parts) > 1 else optimizer


def _muon(schedule: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """Returns Muon with decoupled weight decay, for parameters that are all matrices.

    An update is the orthogonalized Nesterov momentum, multiplied by
    `MUON_RMS * sqrt(max(inputs, outputs))`. Its root mean square is then about that of an update of
    AdamW, whatever the matrix's shape, so that both optimizers take the same learning rate and
    weight decay (arXiv:2502.16982, equation 4).

    `optax.contrib.muon` is not used: it changes between versions of optax, and gives the other
    parameters to AdamW with Nesterov momentum, which also decays biases.

    Args:
      schedule: The learning rate by step.
      weight_decay: The weight decay.
    """

    def scaled(update: Any, _: Any) -> Any:
        return orthogonalize(update) * (MUON_RMS * max(update.shape) ** 0.5)

    return optax.chain(
        optax.trace(MUON_MOMENTUM, nesterov=True),
        optax.stateless_with_tree_map(scaled),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(schedule),
    )


def orthogonalize(matrix: Float[Array, "I O"]) -> Float[Array, "I O"]:
    """Returns a matrix of the same singular vectors whose singular values are near 1.

    The Newton-Schulz iteration `X <- (a + b X X^T + c (X X^T)^2) X` moves all singular values of a
    matrix of norm 1 into about 0.7 to 1.2 (https://kellerjordan.github.io/posts/muon). A matrix of
    zeros stays as it is.

    Args:
      matrix: `[inputs, outputs]`.
    """
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix  # The square of the shorter side is what is computed with.
    x = x / (jnp.linalg.norm(x) + 1e-8)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.T if is_tall else x
