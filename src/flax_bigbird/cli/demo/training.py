"""Two stages of training through the public API, and reading whole speeches with the result."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_bigbird import FlaxBigBirdForSequenceClassification
from flax_bigbird._hf import bigbird_config_class
from flax_bigbird.cli.demo import windows
from flax_bigbird.cli.demo.data import LABELS, Speech
from flax_bigbird.cli.demo.settings import Settings, Stage

Model = FlaxBigBirdForSequenceClassification
Report = Callable[[int, float, float], None]  # step, loss, accuracy of the batch

READ_BATCH = 4  # windows read at once; one shape, so one compilation a length


def new_model(settings: Settings, special: windows.SpecialIds) -> Model:
    """A BigBird with random parameters, its classes named in the configuration."""
    options: dict[str, Any] = {
        "vocab_size": settings.pieces,
        "hidden_size": settings.hidden_size,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "intermediate_size": settings.mlp_size,
        "max_position_embeddings": settings.long.length,
        "block_size": settings.block_size,
        "num_random_blocks": settings.random_blocks,
        "random_attention": "fixed",  # the same random blocks in training and in use
        # Masked pieces and random windows do dropout's work, for less time.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "type_vocab_size": 1,
        "pad_token_id": special.pad,
        "sep_token_id": special.sep,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: index for index, label in enumerate(LABELS)},
    }
    config = bigbird_config_class()(**options)
    return Model(config, seed=settings.seed)


def new_optimizer(stages: Sequence[Stage]) -> optax.GradientTransformation:
    """AdamW over all stages, each with its own warm-up and cosine decay.

    One optimizer, because its averages carry over: the long stage is too short to learn them anew.
    """
    rates = [
        optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=stage.learning_rate,
            warmup_steps=max(1, stage.steps // 10),
            decay_steps=max(2, stage.steps),
            end_value=stage.learning_rate / 50,
        )
        for stage in stages
    ]
    ends = np.cumsum([stage.steps for stage in stages])[:-1].tolist()
    rate = optax.join_schedules(rates, ends)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01))


def train(
    settings: Settings,
    speeches: Sequence[Speech],
    pieces: Sequence[Sequence[int]],
    special: windows.SpecialIds,
    on_stage: Callable[[Stage], Report],
) -> Model:
    """A model trained on `speeches`, whose `pieces` are given; `on_stage` opens each stage."""
    model = new_model(settings, special)
    optimizer = new_optimizer(settings.stages)
    targets = np.stack([windows.soft_target(s.year, settings.blur_years) for s in speeches])
    generator = np.random.default_rng(settings.seed)

    def loss(params: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits = model(ids, mask, params=params, train=True).logits
        right = logits.argmax(-1) == batch["targets"].argmax(-1)
        return optax.softmax_cross_entropy(logits, batch["targets"]).mean(), right.mean()

    @jax.jit  # compiles once a stage: its batches have one shape
    def step(params: Any, state: Any, batch: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
        (value, accuracy), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value, accuracy

    params = model.params
    state = optimizer.init(params)
    for stage in settings.stages:
        done = on_stage(stage)
        batches = windows.training_batches(
            pieces,
            targets,
            length=stage.length,
            batch=stage.batch,
            masked_share=settings.masked_share,
            special=special,
            generator=generator,
        )
        for number, batch in zip(range(1, stage.steps + 1), batches, strict=False):
            params, state, value, accuracy = step(params, state, batch)
            done(number, float(value), float(accuracy))
    model.params = params
    return model


class Reader:
    """Class probabilities of speeches by a model that reads windows of one length."""

    def __init__(self, model: Model, special: windows.SpecialIds, length: int):
        self.special, self.length = special, length
        self._params = model.params
        self._read = jax.jit(
            lambda params, ids, mask: jax.nn.softmax(model(ids, mask, params=params).logits)
        )

    def first_window(self, speeches: Sequence[Sequence[int]]) -> np.ndarray:
        """[speeches, classes]: from the first `length` tokens only."""
        return self._probabilities([(pieces, 0) for pieces in speeches])

    def whole(self, speeches: Sequence[Sequence[int]]) -> np.ndarray:
        """[speeches, classes]: the mean over windows that together cover each speech."""
        places = [windows.starts(len(pieces), self.length) for pieces in speeches]
        flat = [(p, start) for p, found in zip(speeches, places, strict=True) for start in found]
        ends = np.cumsum([len(found) for found in places])[:-1]
        return np.stack([part.mean(0) for part in np.split(self._probabilities(flat), ends)])

    def _probabilities(self, flat: Sequence[tuple[Sequence[int], int]]) -> np.ndarray:
        rows = [windows.window(pieces, start, self.length, self.special) for pieces, start in flat]
        found = []
        for at in range(0, len(rows), READ_BATCH):
            part = rows[at : at + READ_BATCH]
            part = part + [part[-1]] * (READ_BATCH - len(part))
            ids, mask = (np.stack(column) for column in zip(*part, strict=True))
            found.append(np.asarray(self._read(self._params, jnp.asarray(ids), jnp.asarray(mask))))
        return np.concatenate(found)[: len(rows)]
