"""Labels as a model's configuration names them."""

from typing import Any

MODES = {
    "single_label_classification": "single-label",
    "multi_label_classification": "multi-label",
    "regression": "regression",
}


def names(config: Any) -> list[str]:
    """The labels' names in the order of the logits."""
    by_number = {int(number): str(name) for number, name in config.id2label.items()}
    return [by_number.get(number, f"LABEL_{number}") for number in range(config.num_labels)]


def numbers(config: Any) -> dict[Any, int]:
    """From labels as data hold them, names or whole numbers, to the number of the logit.

    A whole number is the name that reads so; where no name is a number, it is the logit's own.
    """
    found: dict[Any, int] = {name: number for number, name in enumerate(names(config))}
    whole = {int(name): number for name, number in found.items() if name.lstrip("-").isdigit()}
    return found | (whole or {number: number for number in range(config.num_labels)})


def mode(config: Any) -> str:
    """What a label is: "single-label", "multi-label" or "regression"."""
    known = MODES.get(config.problem_type)
    return known or ("regression" if config.num_labels == 1 else "single-label")
