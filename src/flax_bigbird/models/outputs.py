"""The output dataclasses of the task classes, which are frozen and registered as pytrees."""

import dataclasses
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, TypeVar, dataclass_transform

import jax
from jaxtyping import Array, Float, Int

_Output = TypeVar("_Output", bound="ModelOutput")


class ModelOutput(Mapping[str, Any]):
    """An output whose fields can be accessed by attribute, key, index and slice.

    `output.logits`, `output["logits"]`, `output[0]` and `output[:2]` (a tuple) all work, as do
    `to_tuple()`, `replace(...)`, `keys()`, `values()`, `items()`, `get(...)`, `in`,
    `dict(output)` and `f(**output)`. Fields that are None are skipped. Iteration yields the names
    of the fields, as for any mapping.
    """

    def _present(self) -> dict[str, Any]:
        names = (field.name for field in dataclasses.fields(self))  # type: ignore[arg-type]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def to_tuple(self) -> tuple[Any, ...]:
        """Returns the fields that are not None, in order."""
        return tuple(self._present().values())

    def replace(self: _Output, **changes: Any) -> _Output:
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def keys(self) -> KeysView[str]:
        """Returns the names of the fields that are not None."""
        return self._present().keys()

    def values(self) -> ValuesView[Any]:
        """Returns the values of the fields that are not None."""
        return self._present().values()

    def items(self) -> ItemsView[str, Any]:
        """Returns the names and values of the fields that are not None."""
        return self._present().items()

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            present = self._present()
            if key not in present:
                raise KeyError(f"no output {key!r}; the outputs are {', '.join(present)}")
            return present[key]
        return self.to_tuple()[key]

    def __len__(self) -> int:
        return len(self._present())

    def __iter__(self) -> Iterator[str]:
        return iter(self._present())

    def __contains__(self, name: object) -> bool:
        return name in self._present()


_Class = TypeVar("_Class", bound=type)


@dataclass_transform(frozen_default=True)
def _output(cls: _Class) -> _Class:
    """Makes a class a frozen dataclass and a pytree.

    Annotations are not checked at run time: transformations rebuild a pytree with other leaves.
    """
    cls.__no_type_check__ = True  # type: ignore[attr-defined]
    cls = dataclasses.dataclass(frozen=True)(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    return jax.tree_util.register_dataclass(cls, data_fields=names, meta_fields=[])


Layers = tuple[Array | None, ...] | None
"""One array per layer, or None if they were not requested."""


@_output
class FlaxBigBirdModelOutput(ModelOutput):
    """The output of the bare model: `last_hidden_state` [B, T, D] and `pooler_output` [B, D]."""

    last_hidden_state: Float[Array, "B T D"]
    pooler_output: Float[Array, "B D"] | None = None
    hidden_states: Layers = None
    past_key_values: dict[str, Any] | None = None
    attentions: Layers = None
    cross_attentions: Layers = None


@_output
class FlaxBigBirdForPreTrainingOutput(ModelOutput):
    """The output of pretraining: `prediction_logits` and `seq_relationship_logits`."""

    prediction_logits: Float[Array, "B T V"]
    seq_relationship_logits: Float[Array, "B 2"] | None = None
    hidden_states: Layers = None
    attentions: Layers = None


@_output
class FlaxMaskedLMOutput(ModelOutput):
    """The output of masked language modeling: `logits` [B, T, V]."""

    logits: Float[Array, "B T V"]
    hidden_states: Layers = None
    attentions: Layers = None


@_output
class FlaxCausalLMOutput(ModelOutput):
    """The output of causal language modeling: `logits` [B, T, V] and the updated cache."""

    logits: Float[Array, "B T V"]
    past_key_values: dict[str, Any] | None = None
    hidden_states: Layers = None
    attentions: Layers = None
    cross_attentions: Layers = None


@_output
class FlaxSequenceClassifierOutput(ModelOutput):
    """The output of sequence classification: `logits` [B, num_labels]."""

    logits: Float[Array, "B labels"]
    hidden_states: Layers = None
    attentions: Layers = None


@_output
class FlaxMultipleChoiceModelOutput(ModelOutput):
    """The output of multiple choice: `logits` [B, C].

    Hidden states and attentions are those of the B*C sequences.
    """

    logits: Float[Array, "B C"]
    hidden_states: Layers = None
    attentions: Layers = None


@_output
class FlaxTokenClassifierOutput(ModelOutput):
    """The output of token classification: `logits` [B, T, num_labels]."""

    logits: Float[Array, "B T labels"]
    hidden_states: Layers = None
    attentions: Layers = None


@_output
class FlaxBigBirdForQuestionAnsweringModelOutput(ModelOutput):
    """The output of question answering: `start_logits` and `end_logits` [B, T].

    With a pooling layer also `pooled_output` [B, D].
    """

    start_logits: Float[Array, "B T"]
    end_logits: Float[Array, "B T"]
    pooled_output: Float[Array, "B D"] | None = None
    hidden_states: Layers = None
    attentions: Layers = None


@_output
class FlaxGenerationOutput(ModelOutput):
    """The output of generation: `sequences`, which hold prompts, continuations and padding.

    The shape is `[B * num_return_sequences, S]`.
    """

    sequences: Int[Array, "sequences S"]


@_output
class FlaxBeamSearchOutput(ModelOutput):
    """The output of beam search: `sequences`, best first for each example, and their `scores`."""

    sequences: Int[Array, "sequences S"]
    scores: Float[Array, " sequences"] | None = None
