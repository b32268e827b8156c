"""The results of the example, for programs (`report.json`) and for people (`report.md`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flax_bigbird.examples.state_of_the_union.speeches import LABELS

MADE_BY = "bigbird demo"


@dataclass(frozen=True)
class Score:
    """How many of the held-out speeches a classifier got right.

    Attributes:
      name: The classifier.
      right: The number of speeches whose class it predicted.
      total: The number of held-out speeches.
    """

    name: str
    right: int
    total: int

    @property
    def accuracy(self) -> float:
        """The fraction of the speeches that are right."""
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy, which is wide for so few speeches."""
        z = 1.96
        spread = z**2 / self.total
        center = (self.accuracy + spread / 2) / (1 + spread)
        half = math.sqrt(self.accuracy * (1 - self.accuracy) * spread + spread**2 / 4)
        half /= 1 + spread
        return max(0.0, center - half), min(1.0, center + half)


def score(name: str, predicted: Sequence[int], expected: Sequence[int]) -> Score:
    """Counts the predictions that are right.

    Raises:
      ValueError: if the lists differ in length or are empty.
    """
    if len(predicted) != len(expected) or not expected:
        raise ValueError(
            "a score needs one prediction per speech; got "
            f"{len(predicted)} for {len(expected)} speeches"
        )
    right = sum(int(p) == int(e) for p, e in zip(predicted, expected, strict=True))
    return Score(name, right, len(expected))


@dataclass(frozen=True)
class Prediction:
    """The prediction for one held-out speech.

    Attributes:
      speech: The name of the speech.
      year: The year in which it was given.
      probabilities: The probability of each class.
    """

    speech: str
    year: int
    probabilities: Mapping[str, float]

    @property
    def best(self) -> str:
        """The class with the highest probability."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


def as_json(
    scores: Sequence[Score],
    prediction: Prediction,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the whole report as plain values.

    Args:
      scores: The rows of the table of results.
      prediction: One speech to show.
      settings: The settings of the example.
      facts: Further entries: sizes, times, versions.
    """
    return {
        "made_by": MADE_BY,
        "rows": [
            asdict(score) | {"accuracy": score.accuracy, "interval_95": list(score.interval)}
            for score in scores
        ],
        "prediction": asdict(prediction) | {"predicted": prediction.best},
        "settings": dict(settings),
        **facts,
    }


def as_markdown(report: Mapping[str, Any]) -> str:
    """Returns the report as Markdown.

    Args:
      report: The values that `as_json` returned.
    """
    settings = report["settings"]
    prediction = report["prediction"]
    start = "random parameters" if settings["from_scratch"] else f"`{settings['model']}`"
    lines = [
        "# Which quarter-century is this State of the Union address from?",
        "",
        f"A BigBird of {report['parameters']:,} parameters was trained from {start} on "
        f"{report['training_speeches']} speeches and tested on {report['held_out_speeches']} "
        f"speeches that it never saw. There are {len(LABELS)} classes. Digits and spelled-out "
        "dates are masked, and no year is in both parts.",
        "",
        "| on the held-out speeches | right | accuracy | 95% interval |",
        "|---|---|---|---|",
    ]
    for row in report["rows"]:
        low, high = row["interval_95"]
        lines.append(
            f"| {row['name']} | {row['right']} of {row['total']} | "
            f"{row['accuracy']:.2f} | {low:.2f} to {high:.2f} |"
        )
    lines += [
        "",
        "The BigBird rows are one model that reads more or less of each speech at once; it was "
        f"trained on windows of {settings['window_length']:,} tokens. The hidden states of all "
        "windows of a speech are averaged. TF-IDF reads whole speeches too.",
        "",
        f"{_training(settings)}; seed {settings['seed']}; "
        f"{report['seconds']['training']:.0f} s, {report['seconds']['total']:.0f} s in all.",
        "",
        f"## One speech: {prediction['speech']}",
        "",
        "The model that was saved here, loaded again, predicts "
        f"{prediction['predicted']} for this speech.",
        "",
        "| class | probability |",
        "|---|---|",
        *(f"| {label} | {value:.3f} |" for label, value in prediction["probabilities"].items()),
        "",
    ]
    return "\n".join(lines)


def _training(settings: Mapping[str, Any]) -> str:
    """Returns what was trained, in a sentence without its end."""
    if not settings["steps"]:
        return "Training: the head only, by logistic regression on the pretrained model's features"
    tokens = f"{settings['batch_size']} x {settings['window_length']} tokens"
    return f"Training: the head, then all layers in {settings['steps']} steps of {tokens}"
