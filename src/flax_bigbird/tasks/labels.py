"""The labels of a classifier, as its configuration names them."""

import re
from typing import Any

import numpy as np

from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.types import Dataset

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_GENERIC_NAME = re.compile(r"LABEL_[0-9]+")


def label_names(config: Any) -> list[str]:
    """Returns the names of the labels in the order of the logits."""
    names = {int(index): str(name) for index, name in config.id2label.items()}
    return [names.get(index, f"LABEL_{index}") for index in range(config.num_labels)]


def label_indices(config: Any) -> dict[Any, int]:
    """Returns the index of the logit of each label, as data may give the label.

    Data may give a label by its name, or as an integer. An integer matches the name with the same
    decimal digits; if no name is an integer, it is the index of the logit. Files without types,
    such as CSV, give integers as text, which is treated alike.
    """
    indices: dict[Any, int] = {name: index for index, name in enumerate(label_names(config))}
    integers = {int(name): index for name, index in indices.items() if is_integer(name)}
    integers = integers or {index: index for index in range(config.num_labels)}
    return {str(integer): index for integer, index in integers.items()} | integers | indices


def match_labels(names: list[str], config: Any) -> list[str] | None:
    """Returns the names of a checkpoint's labels, if they are the labels of the data.

    The order may differ. Integers match the labels that they stand for, see `label_indices`, and
    the only label of a regression matches any name.

    Args:
      names: The names of the labels in the data.
      config: The configuration of the checkpoint.

    Returns:
      The names in the order of the checkpoint's logits; None if the labels differ.
    """
    indices = label_indices(config)
    matched = sorted(indices.get(name, -1) for name in names)
    same = matched == list(range(config.num_labels)) or len(names) == config.num_labels == 1
    return label_names(config) if same else None


def class_names(rows: Dataset, column: str) -> list[str] | None:
    """Returns the names of the labels if a column holds codes of a `datasets.ClassLabel`.

    Args:
      rows: The rows.
      column: A column of codes, or of lists of codes.
    """
    feature = rows.features[column]
    return getattr(getattr(feature, "feature", feature), "names", None)


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


def label_thresholds(config: Any, names: list[str]) -> np.ndarray:
    """Returns the probability from which each label of a set is predicted, `[num_labels]`.

    Args:
      config: The configuration; its `label_thresholds` map names to thresholds, 0.5 by default.
      names: The names of the labels.

    Raises:
      OptionError: if the thresholds are not such a mapping.
    """
    thresholds = getattr(config, "label_thresholds", None) or {}
    is_mapping = isinstance(thresholds, dict) and set(thresholds) <= set(names)
    values = thresholds.values() if is_mapping else ()
    if not is_mapping or not all(isinstance(v, int | float) and 0 <= v <= 1 for v in values):
        raise OptionError(
            "config.label_thresholds must map labels of the model to numbers from 0 to 1; got "
            f"{thresholds!r}: correct or remove the key"
        )
    return np.array([float(thresholds.get(name, 0.5)) for name in names])


def are_generic(names: list[str]) -> bool:
    """Returns whether all labels have the names that `transformers` gives to labels without one."""
    return all(map(_GENERIC_NAME.fullmatch, names))


def class_name(names: list[str], code: Any) -> Any:
    """Returns the name of a code of a `datasets.ClassLabel`; other values are returned as they are.

    -1 stands for an unknown label, as in the test splits of many datasets on the Hub.
    """
    is_code = isinstance(code, int) and 0 <= code < len(names)
    return names[code] if is_code else code


def is_integer(name: str) -> bool:
    """Returns whether a label's name is a decimal integer of at most 64 bits."""
    return _INTEGER.fullmatch(name) is not None
