"""What the run found, for people (`report.md`) and for programs (`report.json`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flax_bigbird.cli.demo.data import LABELS

MADE_BY = "bigbird demo"


@dataclass(frozen=True)
class Row:
    """One way of telling the class, and how often it was right on the held-out speeches."""

    name: str
    right: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy: what so few speeches can say."""
        z = 1.96
        spread = z**2 / self.total
        centre = (self.accuracy + spread / 2) / (1 + spread)
        half = math.sqrt(self.accuracy * (1 - self.accuracy) * spread + spread**2 / 4)
        half /= 1 + spread
        return max(0.0, centre - half), min(1.0, centre + half)


def row(name: str, predicted: Sequence[int], wanted: Sequence[int]) -> Row:
    """Counts the predictions that are right.

    Raises:
      ValueError: the lists differ in length or are empty.
    """
    if len(predicted) != len(wanted) or not wanted:
        raise ValueError(
            f"a row needs one prediction a speech; got {len(predicted)} for {len(wanted)} speeches"
        )
    right = sum(int(p) == int(w) for p, w in zip(predicted, wanted, strict=True))
    return Row(name, right, len(wanted))


@dataclass(frozen=True)
class Prediction:
    """One held-out speech, read by the model that was loaded back."""

    speech: str
    year: int
    probabilities: Mapping[str, float]

    @property
    def best(self) -> str:
        return max(self.probabilities, key=self.probabilities.__getitem__)


def as_json(
    rows: Sequence[Row],
    prediction: Prediction,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole report as plain values."""
    return {
        "made_by": MADE_BY,
        "rows": [
            asdict(row) | {"accuracy": row.accuracy, "interval_95": list(row.interval)}
            for row in rows
        ],
        "prediction": asdict(prediction) | {"predicted": prediction.best},
        "settings": dict(settings),
        **facts,
    }


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report to read, from `as_json`'s values."""
    settings = report["settings"]
    found = report["prediction"]
    start = "random parameters" if settings["from_scratch"] else f"`{settings['model']}`"
    lines = [
        "# Which quarter-century is this State of the Union address from?",
        "",
        f"A BigBird of {report['parameters']:,} parameters, trained from {start} on "
        f"{report['training_speeches']} speeches and tried on {report['held_out_speeches']} that "
        f"it never saw. {len(LABELS)} classes; digits and spelled-out dates are masked; no year is "
        "in both parts.",
        "",
        "| on the held-out speeches | right | accuracy | 95% interval |",
        "|---|---|---|---|",
    ]
    for entry in report["rows"]:
        low, high = entry["interval_95"]
        lines.append(
            f"| {entry['name']} | {entry['right']} of {entry['total']} | "
            f"{entry['accuracy']:.2f} | {low:.2f} to {high:.2f} |"
        )
    lines += [
        "",
        "The BigBird rows are one set of weights, given more or less of each speech to read at "
        f"once; it was trained on windows of {settings['window']:,} tokens. The probabilities of a "
        "speech's windows are averaged. TF-IDF reads whole speeches too.",
        "",
        f"Training: {settings['steps']} steps of {settings['batch']} x {settings['window']} "
        f"tokens; seed {settings['seed']}; {report['seconds']['training']:.0f} s, "
        f"{report['seconds']['total']:.0f} s in all.",
        "",
        f"## One speech: {found['speech']}",
        "",
        f"Read by the model saved here and loaded back. It says {found['predicted']}.",
        "",
        "| class | probability |",
        "|---|---|",
        *(f"| {label} | {value:.3f} |" for label, value in found["probabilities"].items()),
        "",
    ]
    return "\n".join(lines)
