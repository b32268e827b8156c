"""The labels of a classifier, as its configuration names them."""

from typing import Any


def label_names(config: Any) -> list[str]:
    """Returns the names of the labels in the order of the logits."""
    names = {int(index): str(name) for index, name in config.id2label.items()}
    return [names.get(index, f"LABEL_{index}") for index in range(config.num_labels)]


def label_indices(config: Any) -> dict[Any, int]:
    """Returns the index of the logit of each label, as data may give the label.

    Data may give a label by its name, or as an integer. The integer stands for the name that reads
    like it; if no name is an integer, it is the index of the logit.
    """
    indices: dict[Any, int] = {name: index for index, name in enumerate(label_names(config))}
    integers = {int(name): index for name, index in indices.items() if is_integer(name)}
    return indices | (integers or {index: index for index in range(config.num_labels)})


def label_config(names: list[str]) -> dict[str, Any]:
    """Returns the configuration keys of a model with these labels."""
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def problem_type(config: Any) -> str:
    """Returns the kind of labels that a sequence classifier was trained on."""
    if config.problem_type:
        return config.problem_type
    return "regression" if config.num_labels == 1 else "single_label_classification"


def is_integer(name: str) -> bool:
    """Returns whether a label's name is a decimal integer."""
    return name.lstrip("-").isdigit()
