"""Compares learning rates, layer-wise decay and the start of the head in sequence classification.

Three data sets, each cut to few documents and their first tokens so that the sweep runs on a CPU:
the speeches of `bigbird demo` (which quarter-century?), Hyperpartisan news (SemEval-2019 task 4, by
article, https://zenodo.org/records/1489920), and movie reviews (polarity data set 2.0 of
`nltk_data`). --data names a folder that holds `hyperpartisan/articles.parquet` and
`movie_reviews/{train,test}.parquet`, with the columns `text` and `label`; a data set that is not
there is left out, with a message.

The accuracy and the loss on held-out documents are measured before the first step and after every
epoch. Results are written after each run, and runs that are in the results already are not
repeated.
"""

import argparse
import itertools
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from report import mean_and_deviation, write_results

from flax_bigbird.examples.state_of_the_union.speeches import (
    LABELS,
    load_speeches,
    split_by_year,
)
from flax_bigbird.pretrained import DEFAULT_MODEL
from flax_bigbird.train import train, train_options

RESULTS = Path(__file__).parent / "results"
Rows = list[dict[str, str]]


def speeches(documents: int) -> tuple[Rows, Rows]:
    """Returns training speeches of the demo, spread over the years, and the held-out ones."""
    training, held_out = split_by_year(load_speeches())
    training = training[:: max(1, len(training) // documents)]
    as_rows = [
        [{"text": s.text, "label": LABELS[s.label]} for s in split]
        for split in (training, held_out)
    ]
    return as_rows[0], as_rows[1]


def hyperpartisan(folder: Path, documents: int) -> tuple[Rows, Rows]:
    """Returns articles to train on, and 100 others to test on."""
    rows = read(folder / "hyperpartisan" / "articles.parquet")
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[i] for i in order[:documents]], [rows[i] for i in order[documents:][:100]]


def movie_reviews(folder: Path, documents: int) -> tuple[Rows, Rows]:
    """Returns reviews to train on, and half of the test split."""
    rows = read(folder / "movie_reviews" / "train.parquet")
    order = np.random.default_rng(0).permutation(len(rows))
    test = read(folder / "movie_reviews" / "test.parquet")
    return [rows[i] for i in order[:documents]], test[::2]


def read(path: Path) -> Rows:
    """Returns the texts and labels of a Parquet file."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, columns=["text", "label"]).to_pylist()
    return [{"text": row["text"], "label": str(row["label"])} for row in table]


def data_sets(folder: Path | None, documents: int) -> Iterator[tuple[str, tuple[Rows, Rows]]]:
    """Yields the name, the training rows and the test rows of each data set that is there."""
    yield "speeches", speeches(documents)
    for name, load in (("hyperpartisan", hyperpartisan), ("movie_reviews", movie_reviews)):
        if folder is None or not (folder / name).is_dir():
            print(f"{name} is left out: give --data, a folder with {name}/", flush=True)
            continue
        yield name, load(folder, documents)


def settings_to_compare() -> Iterator[dict[str, Any]]:
    """Yields the options that differ between runs."""
    yield {}
    yield {"learning_rate": 3e-5}
    yield {"learning_rate": 3e-4, "linear_probing": False}
    yield {"learning_rate": 1e-4}
    yield {"learning_rate": 3e-5, "linear_probing": False}
    yield {"learning_rate": 3e-4}


def run(
    data: tuple[Rows, Rows], changes: dict[str, Any], arguments: Any, seed: int
) -> dict[str, list[float]]:
    """Returns the metrics of the test rows before the first step and after each epoch."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, rows in zip(("train", "test"), data, strict=True):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        report = train(
            train_options(
                "sequence-classification",
                train_files=[str(folder / "train.jsonl")],
                validation_files=[str(folder / "test.jsonl")],
                output_dir=str(folder / "run"),
                model=arguments.model,
                max_length=arguments.length,
                min_bucket_length=arguments.length,
                tokens_per_batch=arguments.batch_size * arguments.length,
                num_train_epochs=float(arguments.epochs),
                save_steps=10**6,
                seed=seed,
                **changes,
            )
        )
    return {name: [e[name] for e in report["evaluations"]] for name in ("accuracy", "loss")}


def table(result: dict[str, Any]) -> str:
    """Returns the table of results."""
    a = result["arguments"]
    lines = [
        "# Defaults of sequence classification",
        "",
        f"Held-out documents, model {a['model']}, first {a['length']} tokens, batches of "
        f"{a['batch_size']} documents, {a['epochs']} epochs. Accuracy and cross-entropy are means "
        "over the seeds, with the standard deviation of the accuracy. The outputs before the first "
        "step are those of the linear probe, which is the same for all seeds but for the folds of "
        "cross-validation.",
        "",
        f"`{result['command']}` on {result['machine']}.",
        "",
        "| data | documents | settings | seeds | accuracy before | after | loss before | after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["data"] for row in result["runs"]):
        for settings in result["settings"]:  # in the order in which they were run
            runs = [r for r in result["runs"] if (r["data"], r["settings"]) == (name, settings)]
            if runs:
                lines.append(_table_row(name, settings, runs))
    return "\n".join([*lines, ""])


def _table_row(name: str, settings: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """Returns the line of one data set and one choice of settings."""
    accuracy = np.array([run["accuracy"] for run in runs])
    loss = np.array([run["loss"] for run in runs if "loss" in run])  # the first runs lack it
    has_probe = settings.get("linear_probing", True)  # a run without one is not evaluated before
    shown = ", ".join(f"{key} {value}" for key, value in settings.items()) or "the defaults"
    cells = [
        name,
        " + ".join(map(str, runs[0]["documents"])),
        shown,
        str(len(runs)),
        f"{accuracy[:, 0].mean():.3f}" if has_probe else "",
        mean_and_deviation(accuracy[:, -1].tolist(), 3),
        f"{loss[:, 0].mean():.3f}" if has_probe and len(loss) else "",
        f"{loss[:, -1].mean():.3f}" if len(loss) else "",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--documents", type=int, default=100, help="training documents per set")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "classification_defaults.json")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"runs": []}
    if arguments.output.exists():
        result = json.loads(arguments.output.read_text(encoding="utf-8"))
    shown = {k: v for k, v in vars(arguments).items() if k not in ("data", "output")}
    result["arguments"] = shown
    flags = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in shown.items())
    result["command"] = f"python benchmarks/classification_defaults.py --data DATA {flags}"
    result["machine"] = f"{platform.machine()}, {jax.devices()[0].device_kind}"
    result["settings"] = list(settings_to_compare())
    sets = dict(data_sets(arguments.data, arguments.documents))
    choices = itertools.product(range(arguments.seeds), settings_to_compare(), sets)
    for seed, changes, name in choices:
        key = {"data": name, "settings": changes, "seed": seed}
        if any({k: row[k] for k in key} == key for row in result["runs"]):
            continue
        start = time.process_time()
        metrics = run(sets[name], changes, arguments, seed)
        row = key | {"documents": [len(rows) for rows in sets[name]]} | metrics
        result["runs"].append(row | {"processor_seconds": round(time.process_time() - start)})
        print(row, flush=True)
        write_results(arguments.output, result, table(result))


if __name__ == "__main__":
    main()
