"""What the task classes return: frozen dataclasses, and pytrees."""

import dataclasses
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, Self

import jax
from jaxtyping import Array, Float, Int


class ModelOutput:
    """Fields readable by attribute, by key, by index and slice; absent fields (None) are skipped.

    `output.logits`, `output["logits"]`, `output[0]` and `output[:2]` (a tuple) all work, as do
    `to_tuple()`, `replace(...)`, `keys()`, `values()`, `items()`, `in` and `dict(output)`.
    Iterating gives the names, as for a mapping.
    """

    def _present(self) -> dict[str, Any]:
        names = (field.name for field in dataclasses.fields(self))  # type: ignore[arg-type]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are present, in order."""
        return tuple(self._present().values())

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def keys(self) -> KeysView[str]:
        """Names of the fields that are present."""
        return self._present().keys()

    def values(self) -> ValuesView[Any]:
        """Values of the fields that are present."""
        return self._present().values()

    def items(self) -> ItemsView[str, Any]:
        """Names and values of the fields that are present."""
        return self._present().items()

    def get(self, name: str, default: Any = None) -> Any:
        """The field of that name, or the default when it is absent."""
        return self._present().get(name, default)

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            present = self._present()
            if key not in present:
                raise KeyError(f"no output {key!r}; this one has {', '.join(present)}")
            return present[key]
        return self.to_tuple()[key]

    def __len__(self) -> int:
        return len(self._present())

    def __iter__(self) -> Iterator[str]:
        return iter(self._present())

    def __contains__(self, name: object) -> bool:
        return name in self._present()


def _output(cls: type) -> type:
    cls = dataclasses.dataclass(frozen=True)(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    return jax.tree_util.register_dataclass(cls, data_fields=names, meta_fields=[])


Layers = tuple[Array, ...] | None
"""One array per layer, or None when it was not asked for."""


@_output
class FlaxBigBirdModelOutput(ModelOutput):
    """The bare encoder: `last_hidden_state` [B, T, D], `pooler_output` [B, D]."""

    last_hidden_state: Float[Array, "B T D"]
    pooler_output: Float[Array, "B D"] | None = None
    hidden_states: Layers = None
    past_key_values: dict[str, Any] | None = None
    attentions: Layers = None
    cross_attentions: Layers = None


@_output
class FlaxBigBirdForPreTrainingOutput(ModelOutput):
    """`prediction_logits` [B, T, V] and `seq_relationship_logits` [B, 2]."""

    prediction_logits: Float[Array, "B T V"]
    seq_relationship_logits: Float[Array, "B 2"] | None = None
    hidden_states: Layers = None
    attentions: Layers = None


@_output
class FlaxMaskedLMOutput(ModelOutput):
    """`logits` [B, T, V]."""

    logits: Float[Array, "B T V"]
    hidden_states: Layers = None
    attentions: Layers = None


@_output
class FlaxCausalLMOutput(ModelOutput):
    """`logits` [B, T, V] and the updated cache."""

    logits: Float[Array, "B T V"]
    past_key_values: dict[str, Any] | None = None
    hidden_states: Layers = None
    attentions: Layers = None
    cross_attentions: Layers = None


@_output
class FlaxSequenceClassifierOutput(ModelOutput):
    """`logits` [B, num_labels]."""

    logits: Float[Array, "B labels"]
    hidden_states: Layers = None
    attentions: Layers = None


@_output
class FlaxMultipleChoiceModelOutput(ModelOutput):
    """`logits` [B, C]; hidden states and attentions are those of the B*C texts."""

    logits: Float[Array, "B C"]
    hidden_states: Layers = None
    attentions: Layers = None


@_output
class FlaxTokenClassifierOutput(ModelOutput):
    """`logits` [B, T, num_labels]."""

    logits: Float[Array, "B T labels"]
    hidden_states: Layers = None
    attentions: Layers = None


@_output
class FlaxBigBirdForQuestionAnsweringModelOutput(ModelOutput):
    """`start_logits` and `end_logits` [B, T]; `pooled_output` [B, D] with a pooling layer."""

    start_logits: Float[Array, "B T"]
    end_logits: Float[Array, "B T"]
    pooled_output: Float[Array, "B D"] | None = None
    hidden_states: Layers = None
    attentions: Layers = None


@_output
class FlaxGenerationOutput(ModelOutput):
    """`sequences` [rows, T + new]: prompts, continuations, padding."""

    sequences: Int[Array, "rows S"]


@_output
class FlaxBeamSearchOutput(ModelOutput):
    """`sequences` [rows, T + new], best first for each document, and their `scores` [rows]."""

    sequences: Int[Array, "rows S"]
    scores: Float[Array, " rows"] | None = None
