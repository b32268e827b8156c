"""Decides which parts of a checkpoint's head a run keeps, and initializes the others."""

import copy
from dataclasses import dataclass, field
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from flax_bigbird.config import classifier_pooling
from flax_bigbird.tasks.labels import label_config, label_names, match_labels
from flax_bigbird.tasks.loading import load_config

DEFAULT_CLASSIFIER_POOLING = "mean"  # of a new head of sequence classification


@dataclass(frozen=True)
class HeadPlan:
    """What the head of a run starts from.

    Attributes:
      task_config: The keys of the configuration that the task and the head set.
      is_new: Whether the head, or at least its output layer, does not come from the checkpoint.
      renew_output_layer: Whether the checkpoint has an output layer that must be initialized anew.
      messages: Sentences for the user.
    """

    task_config: dict[str, Any]
    is_new: bool = True
    renew_output_layer: bool = False
    messages: list[str] = field(default_factory=list)


def plan_head(initial_model: str | None, model_class: str, task_config: dict[str, Any]) -> HeadPlan:
    """Compares the head that the training data need with that of a checkpoint.

    A checkpoint with a head for the same labels keeps it, with the order of its labels. For other
    labels, or another pooling than its own, its output layer is new.

    Args:
      initial_model: The model to start from; None for a new one.
      model_class: The name of the class in `flax_bigbird`.
      task_config: The keys of the configuration that follow from the options and the training data.
        A `classifier_pooling` of None is that of the checkpoint's head, or the default of a new
        one.
    """
    config = None if initial_model is None else load_config(initial_model)
    classes = {name.removeprefix("Flax") for name in getattr(config, "architectures", None) or ()}
    has_head = model_class.removeprefix("Flax") in classes
    new_pooling = None
    if "classifier_pooling" in task_config:
        own = classifier_pooling(config) if has_head else None
        pooling = task_config["classifier_pooling"] or own or DEFAULT_CLASSIFIER_POOLING
        task_config = task_config | {"classifier_pooling": pooling}
        new_pooling = pooling if has_head and pooling != own else None
    if not has_head:
        return HeadPlan(task_config)
    if "id2label" not in task_config:
        return HeadPlan(task_config, is_new=False)
    names = list(task_config["id2label"].values())
    matched = match_labels(names, config)
    if matched is None:
        message = (
            f"The labels of the training data ({_shorten(names)}) are not those of {initial_model} "
            f"({_shorten(label_names(config))}), so its output layer is initialized anew."
        )
        return HeadPlan(task_config, True, True, [message])
    messages = []
    if matched != names:
        messages = [f"The labels keep the order of {initial_model}: {_shorten(matched)}."]
    if new_pooling:
        messages.append(
            f"The classifier_pooling is not that of {initial_model}, so its output layer is "
            "initialized anew."
        )
    is_new = new_pooling is not None
    return HeadPlan(task_config | label_config(matched), is_new, is_new, messages)


def renew_output_layer(model: Any) -> None:
    """Initializes the parameters whose shapes depend on the number of labels."""
    config = copy.deepcopy(model.config)
    config.num_labels += 1
    other: dict[Any, Any] = flatten_dict(type(model)(config, _do_init=False).params_shape_tree)
    params: dict[Any, Any] = flatten_dict(model.params)
    kept = {path: leaf for path, leaf in params.items() if other[path].shape == leaf.shape}
    model.params = model.to_fp32(
        model.init_weights(model.key, model.input_shape, unflatten_dict(kept))
    )


def _shorten(names: list[str], count: int = 10) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
