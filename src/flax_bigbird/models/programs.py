"""Compiled functions of a model, which later calls with the same options use again."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any

from flax_bigbird.models.parameterized import ParameterizedModel

_programs: "weakref.WeakKeyDictionary[Any, dict[Any, tuple[Callable[..., Any], Any]]]"
_programs = weakref.WeakKeyDictionary()


def model_program(
    model: ParameterizedModel, options: Hashable, build: Callable[[], Callable[..., Any]]
) -> Callable[..., Any]:
    """Returns the compiled function of a model for some options.

    Args:
      model: The model, with which the function is dropped.
      options: What the function depends on besides the module and the configuration of the model.
      build: Returns the function of `jax.jit` when there is none yet. The function must not refer
        to the model, which would then never be freed.
    """
    programs = _programs.setdefault(model, {})
    key = (options, id(model.module), model.config.to_json_string())
    if key not in programs:
        programs[key] = build(), model.module  # the module is kept: no other may get its id
    return programs[key][0]
