"""Outputs are frozen dataclasses and pytrees, with access by attribute, key, index and slice."""

import collections.abc
import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from tiny_models import TASKS

from flax_bigbird.models import outputs

# The fields of HF-Flax's outputs, in order.
FIELDS = {
    "Model": "last_hidden_state pooler_output hidden_states past_key_values attentions "
    "cross_attentions",
    "ForPreTraining": "prediction_logits seq_relationship_logits hidden_states attentions",
    "ForMaskedLM": "logits hidden_states attentions",
    "ForCausalLM": "logits past_key_values hidden_states attentions cross_attentions",
    "ForSequenceClassification": "logits hidden_states attentions",
    "ForMultipleChoice": "logits hidden_states attentions",
    "ForTokenClassification": "logits hidden_states attentions",
    "ForQuestionAnswering": "start_logits end_logits pooled_output hidden_states attentions",
}


@pytest.fixture
def output():
    """An output with a field that is None between others."""
    return outputs.FlaxBigBirdForQuestionAnsweringModelOutput(
        start_logits=jnp.zeros(1), end_logits=jnp.ones(1), attentions=(jnp.ones(2),)
    )


@pytest.mark.parametrize("task", TASKS)
def test_fields_in_order(task):
    result = tiny_models.run(
        tiny_models.model(task),
        tiny_models.inputs(task),
        output_hidden_states=True,
        output_attentions=True,
    )
    names = FIELDS[task].split()
    assert [field.name for field in dataclasses.fields(result)] == names
    absent = {"past_key_values", "cross_attentions", "pooled_output"}
    assert list(result.keys()) == [name for name in names if name not in absent]


def test_by_attribute_key_index_and_slice(output):
    assert output.end_logits is output["end_logits"] is output[1]
    assert output.pooled_output is None
    assert output[2] is output[-1] is output.attentions
    assert output[:2] == (output.start_logits, output.end_logits)
    assert output.to_tuple() == output[:]
    first, second, third = output.to_tuple()
    assert (first, second, third) == tuple(output.values())


def test_as_a_mapping(output):
    assert list(output) == list(output.keys()) == ["start_logits", "end_logits", "attentions"]
    assert dict(output) == dict(output.items())
    assert len(output) == 3
    assert "end_logits" in output
    assert "pooled_output" not in output
    assert output.get("pooled_output", 5) == 5
    with pytest.raises(KeyError, match="no output 'pooled_output'; the outputs are start_logits"):
        output["pooled_output"]
    with pytest.raises(IndexError):
        output[3]


def test_is_a_mapping_that_unpacks(output):
    """Scripts test for a mapping, pass outputs on by name, and iterate over names and values."""
    assert issubclass(type(output), collections.abc.Mapping)

    def names(**fields):
        return list(fields)

    assert names(**output) == list(output)
    assert {**output}.keys() == output.keys()
    assert [name for name, _ in output.items()] == list(output)
    assert output.get("end_logits") is output.end_logits
    assert output.get("no such output") is None
    for other in (copy.deepcopy(output), pickle.loads(pickle.dumps(output))):
        assert type(other) is type(output)
        assert list(other) == list(output)


def test_output_classes_are_public():
    import flax_bigbird

    for task, name in {
        "ForPreTraining": "FlaxBigBirdForPreTrainingOutput",
        "ForMaskedLM": "FlaxMaskedLMOutput",
        "ForQuestionAnswering": "FlaxBigBirdForQuestionAnsweringModelOutput",
    }.items():
        result = tiny_models.run(tiny_models.model(task), tiny_models.inputs(task))
        assert type(result) is getattr(flax_bigbird, name)
        assert isinstance(result, flax_bigbird.ModelOutput)


def test_frozen_and_replace(output):
    with pytest.raises(dataclasses.FrozenInstanceError):
        output.start_logits = None
    changed = output.replace(pooled_output=jnp.ones(3))
    assert changed[2].shape == (3,)
    assert output.pooled_output is None


def test_pytree(output):
    doubled = jax.tree.map(lambda x: 2 * x, output)
    assert type(doubled) is type(output)
    assert doubled.pooled_output is None
    np.testing.assert_array_equal(doubled.end_logits, 2 * output.end_logits)
    through = jax.jit(lambda x: x)(output)
    np.testing.assert_array_equal(through[1], output[1])


@pytest.mark.parametrize("task", TASKS)
def test_return_dict_false_gives_the_tuple(task):
    model, inputs = tiny_models.model(task), tiny_models.inputs(task)
    result = tiny_models.run(model, inputs, return_dict=False, output_hidden_states=True)
    assert type(result) is tuple
    named = tiny_models.run(model, inputs, output_hidden_states=True)
    tiny_models.close(result, named.to_tuple())


def test_the_configuration_sets_the_defaults():
    """`output_hidden_states` and `return_dict` of the call override those of the configuration."""
    model = tiny_models.model(output_hidden_states=True, return_dict=False)
    inputs = tiny_models.inputs()
    assert len(tiny_models.run(model, inputs)) == 3
    assert len(tiny_models.run(model, inputs, output_hidden_states=False)) == 2
    assert isinstance(tiny_models.run(model, inputs, return_dict=True), outputs.ModelOutput)
