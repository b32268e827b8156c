"""Measures what a longer context is worth, on held-out State of the Union addresses.

1. Masked-token loss of one model on the same targets, in the middle of 512, 1024, 2048 and 4096
   tokens: on all targets, and on those whose token occurs elsewhere in the 4096 tokens but not
   within the 512.
2. Classifying the quarter-century of an address (the task of `bigbird demo`) from its first 512 to
   4096 tokens, from averaged windows of 512, from the whole text and by TF-IDF, over several seeds.
   The head reads the first token and starts from random parameters.
3. Classifying which of two addresses in one document is older (`distant_passages.py`): from the
   whole document, from its start, from averaged windows of 512 and by TF-IDF, over several seeds.

The results are written after each part. Training runs in --folder that are finished are reused,
and interrupted ones resume.
"""

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import distant_passages
import jax
import numpy as np
from random_attention import texts
from report import machine, mean_and_deviation, write_results

from flax_bigbird import FlaxBigBirdForMaskedLM
from flax_bigbird.data.tokenization import load_tokenizer, tokenize
from flax_bigbird.examples.state_of_the_union import baselines
from flax_bigbird.examples.state_of_the_union.demo import (
    HELD_OUT_FILE,
    TRAINING_FILE,
    Settings,
    select_speeches,
    training_options,
    write_jsonl,
)
from flax_bigbird.examples.state_of_the_union.speeches import load_speeches, split_by_year
from flax_bigbird.inference import load_predictor
from flax_bigbird.nn.losses import negative_log_likelihood
from flax_bigbird.pretrained import DEFAULT_MODEL
from flax_bigbird.train import train

LENGTHS = (512, 1024, 2048, 4096)
TARGET_ZONE, MASKED_FRACTION = 256, 0.15  # tokens in the middle, and how many are masked
RESULTS = Path(__file__).parent / "results"


def split_into_excerpts(tokenizer: Any, documents: list[str]) -> list[tuple[int, list[int]]]:
    """Returns `(document, token ids)` of all excerpts of the longest length, without overlap."""
    room = LENGTHS[-1] - 2
    return [
        (index, tokens[start : start + room])
        for index, tokens in enumerate(tokenize(tokenizer, documents))
        for start in range(0, len(tokens) - room + 1, room)
    ]


def target_losses(
    model: Any, tokenizer: Any, excerpts: list, draws: int, length: int
) -> np.ndarray:
    """Returns the loss in bits of every masked token, `[draws, excerpts, targets]`.

    Args:
      length: how many tokens around the middle of an excerpt the model reads.
    """
    count = round(TARGET_ZONE * MASKED_FRACTION)

    @jax.jit
    def bits(params, ids, positions, labels):
        logits = model(ids, params=params, logits_positions=positions).logits
        return negative_log_likelihood(logits, labels) / math.log(2)

    def loss(draw: int, index: int, tokens: list[int]) -> np.ndarray:
        targets = middle_targets(draw, index)
        ids = np.array(tokens, np.int32)
        labels = ids[targets]
        ids[targets] = tokenizer.mask_token_id
        room = length - 2
        start = (len(ids) - room) // 2
        row = [tokenizer.cls_token_id, *ids[start : start + room], tokenizer.sep_token_id]
        positions = targets - start + 1
        assert positions.min() > 0
        assert positions.max() <= room
        inputs = (np.array(row, np.int32), positions.astype(np.int32), labels)
        return np.asarray(bits(model.params, *(array[None] for array in inputs)))[0]

    losses = [
        [loss(draw, index, tokens) for index, (_, tokens) in enumerate(excerpts)]
        for draw in range(draws)
    ]
    return np.array(losses).reshape(draws, len(excerpts), count)


def middle_targets(draw: int, index: int) -> np.ndarray:
    """Returns the positions that are masked in an excerpt, whatever length is read."""
    first = (LENGTHS[-1] - 2 - TARGET_ZONE) // 2
    generator = np.random.default_rng([draw, index])
    count = round(TARGET_ZONE * MASKED_FRACTION)
    return first + np.sort(generator.choice(TARGET_ZONE, count, replace=False))


def occurs_only_far_away(excerpts: list, draws: int) -> np.ndarray:
    """Returns whether a target's token occurs again, but not in the shortest length read.

    The result is boolean, `[draws, excerpts, targets]`.
    """
    near = LENGTHS[0] - 2
    result = []
    for draw in range(draws):
        rows = []
        for index, (_, tokens) in enumerate(excerpts):
            targets = middle_targets(draw, index)
            start = (len(tokens) - near) // 2
            near_positions = np.arange(start, start + near)
            near_tokens = set(np.array(tokens)[np.setdiff1d(near_positions, targets)])
            all_tokens = set(np.delete(np.array(tokens), targets))
            rows.append([tokens[t] in all_tokens and tokens[t] not in near_tokens for t in targets])
        result.append(rows)
    return np.array(result)


def document_means(values: np.ndarray, documents: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Returns the mean of each document's selected values, without documents that have none."""
    owners = np.broadcast_to(documents[None, :, None], values.shape)[selected]
    total = np.bincount(owners, values[selected], documents.max() + 1)
    count = np.bincount(owners, minlength=documents.max() + 1)
    return total[count > 0] / count[count > 0]


def mean_and_error(values: np.ndarray) -> dict[str, float]:
    """Returns the mean of independent values and its standard error."""
    return {
        "mean": float(values.mean()),
        "error": float(values.std(ddof=1) / math.sqrt(len(values))),
        "count": len(values),
    }


def masked_token_loss(arguments: argparse.Namespace) -> dict[str, Any]:
    """Part 1: bits per masked token by length read, and the difference to 512, by document."""
    tokenizer = load_tokenizer(arguments.model)
    training, held_out = texts()
    excerpts = split_into_excerpts(tokenizer, held_out)
    documents = np.array([index for index, _ in excerpts])
    draws = arguments.draws
    model = FlaxBigBirdForMaskedLM.from_pretrained(arguments.model, padding_invariant=True)
    model.params = model.to_fp32(model.params)
    losses: dict[Any, np.ndarray] = {
        length: target_losses(model, tokenizer, excerpts, draws, length) for length in LENGTHS
    }
    if arguments.short_model:
        short = FlaxBigBirdForMaskedLM.from_pretrained(arguments.short_model)
        losses["short model, 512"] = target_losses(short, tokenizer, excerpts, draws, LENGTHS[0])
    losses["unigram"] = unigram_losses(tokenizer, training, excerpts, draws)
    far = occurs_only_far_away(excerpts, draws)
    kinds = {"all": np.ones_like(far), "far": far}
    result: dict[str, Any] = {
        "excerpts": len(excerpts),
        "documents": len(set(documents)),
        "targets": {kind: int(selected.sum()) for kind, selected in kinds.items()},
    }
    for kind, selected in kinds.items():
        base = document_means(losses[LENGTHS[0]], documents, selected)
        result[kind] = {}
        for name, values in losses.items():
            means = document_means(values, documents, selected)
            result[kind][str(name)] = mean_and_error(means) | {"less": mean_and_error(base - means)}
    return result


def unigram_losses(tokenizer: Any, training: list[str], excerpts: list, draws: int) -> np.ndarray:
    """Returns the loss of every target by the token frequencies of the training texts."""
    tokens = np.concatenate(tokenize(tokenizer, training))
    counts = np.bincount(tokens, minlength=len(tokenizer)) + 1
    bits = -np.log2(counts / counts.sum())
    targets = [
        [np.array(ids)[middle_targets(draw, index)] for index, (_, ids) in enumerate(excerpts)]
        for draw in range(draws)
    ]
    return bits[np.array(targets)]


def accuracy(folder: Path, rows: list[dict[str, str]], length: int, *, whole: bool) -> float:
    """Returns the accuracy of a model on the first `length` tokens, or on windows if `whole`."""
    classify = load_predictor(folder, max_length=length, whole_documents=whole)
    correct = 0
    for start in range(0, len(rows), 8):
        part = rows[start : start + 8]
        answers = classify([row["text"] for row in part])
        correct += sum(a["label"] == r["label"] for a, r in zip(answers, part, strict=True))
    return correct / len(rows)


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """Returns the rows of a JSONL file."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def dating(arguments: argparse.Namespace) -> dict[str, Any]:
    """Part 2: the demo's task and settings, once per seed, fine-tuned and from scratch."""
    training, held_out = select_speeches(Settings())
    predicted = baselines.tfidf_predictions(training, held_out)
    accuracies: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    steps: dict[str, int] = {}
    for seed in range(arguments.seeds):
        for start in ("fine-tuned", "from scratch"):
            scratch = start == "from scratch"
            settings = Settings(
                seed=seed,
                model=arguments.model,
                from_scratch=scratch,
                steps=100,
                learning_rate=5e-4,
            )
            if scratch:
                settings = dataclasses.replace(settings, steps=arguments.scratch_steps)
            folder = Path(arguments.folder) / f"dating-{start.replace(' ', '-')}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            write_jsonl(folder / TRAINING_FILE, training)
            write_jsonl(folder / HELD_OUT_FILE, held_out)
            options = training_options(folder, settings)
            report = train(options.replace(classifier_pooling="cls", linear_probing=False))
            seconds.setdefault(start, []).append(report["seconds"])
            steps[start] = settings.steps
            rows = read_rows(folder / HELD_OUT_FILE)
            for length in () if scratch else LENGTHS:
                value = accuracy(folder / "run", rows, length, whole=False)
                accuracies.setdefault(f"{start}, first {length}", []).append(value)
            for length in (LENGTHS[0], LENGTHS[-1]):
                value = accuracy(folder / "run", rows, length, whole=True)
                accuracies.setdefault(f"{start}, windows of {length}", []).append(value)
        print(seed, {name: values[-1] for name, values in accuracies.items()}, flush=True)
    correct = [label == s.label for label, s in zip(predicted, held_out, strict=True)]
    accuracies["TF-IDF, whole text"] = [float(np.mean(correct))]
    return {
        "held_out": len(held_out),
        "accuracy": accuracies,
        "training_seconds": seconds,
        "steps": steps,
    }


def distant_passages_task(arguments: argparse.Namespace) -> dict[str, Any]:
    """Part 3: which of two addresses is older; starts from the fine-tuned models of part 2."""
    training, held_out = split_by_year(load_speeches())
    folder = Path(arguments.folder)
    examples = distant_passages.build_examples(training, 2000, seed=0)
    rows = distant_passages.build_examples(held_out, 100, seed=1)
    accuracies: dict[str, list[float]] = {}
    for seed in range(arguments.far_seeds):
        dated = folder / f"dating-fine-tuned-{seed}" / "run"
        if not dated.exists():
            raise SystemExit(
                f"part 3 starts from the models of part 2; {dated} does not exist: run it with "
                "--only dating first"
            )
        trained = distant_passages.train_on_documents(examples, dated, folder / f"far-{seed}", seed)
        for length in LENGTHS[:3]:
            value = accuracy(trained, rows, length, whole=False)
            accuracies.setdefault(f"first {length}", []).append(value)
        windows = distant_passages.train_on_windows(examples, dated, folder / f"far-{seed}", seed)
        value = accuracy(windows, rows, distant_passages.WINDOW, whole=True)
        accuracies.setdefault(f"windows of {distant_passages.WINDOW}", []).append(value)
        print(seed, {name: values[-1] for name, values in accuracies.items()}, flush=True)
    accuracies["TF-IDF, whole text"] = [_tfidf(examples, rows)]
    accuracies["true year of the first address"] = [
        distant_passages.accuracy_from_first_year(held_out)
    ]
    return {"test": len(rows), "steps": distant_passages.STEPS, "accuracy": accuracies}


def _tfidf(training: list[dict[str, str]], test: list[dict[str, str]]) -> float:
    """Returns the accuracy of logistic regression on TF-IDF features."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=100.0))
    model.fit([row["text"] for row in training], [row["label"] for row in training])
    return float(model.score([row["text"] for row in test], [row["label"] for row in test]))


def table(results: dict[str, Any]) -> str:
    """Returns the Markdown page of all parts that have been run."""
    parts = [
        "# What a longer context is worth",
        f"`{results['model']}` on held-out State of the Union addresses; "
        f"{results['machine']['cores']} cores, {results['machine']['processor']}; "
        f"`python benchmarks/long_context.py`. {results.get('note', '')}".strip(),
    ]
    if "loss" in results:
        parts += _loss_table(results["loss"])
    for name, lines in (("dating", _DATING), ("far", _FAR)):
        if name in results:
            steps = ", ".join(f"{stage} {n}" for stage, n in results[name]["steps"].items())
            parts += [line.format(**results[name] | {"steps": steps}) for line in lines]
            parts.append(_accuracies(results[name]))
    return "\n\n".join(parts) + "\n"


_DATING = (
    "## Classifying the quarter-century of an address",
    "Ten classes, {held_out} held-out addresses, a head on the first token that starts from random "
    "parameters. Training steps of 8,192 tokens: {steps}. The table has the accuracy, as mean and "
    "standard deviation over seeds.",
)
_FAR = (
    "## Which of two addresses is older",
    "Each document has 2,048 tokens: a page of one address, a page of the names of the States, and "
    "a page of another address, given 40 to 69 years earlier or later (`distant_passages.py`). "
    "There are {test} test documents, with every pair in both orders. Training starts from the "
    "models of the section above; steps of 8,192 tokens: {steps}. The table has the accuracy, as "
    "mean and standard deviation over seeds. The last row is the best accuracy that the true year "
    "of the first address alone allows.",
)


def _accuracies(part: dict[str, Any]) -> str:
    """Returns the table of accuracies, and of training times if there are any."""
    lines = ["| input | accuracy | per seed |", "|---|---|---|"]
    for name, values in part["accuracy"].items():
        each = ", ".join(f"{value:.3f}" for value in values) if len(values) > 1 else ""
        lines.append(f"| {name} | {mean_and_deviation(values, 3)} | {each} |")
    for name, values in part.get("training_seconds", {}).items():
        each = ", ".join(f"{value:.0f}" for value in values)
        lines.append(f"| training time, {name}, seconds | {np.mean(values):.0f} | {each} |")
    return "\n".join(lines)


def _loss_table(part: dict[str, Any]) -> list[str]:
    """Returns the heading, the text and the table of part 1."""
    lines = [
        "| input | all targets | gain over 512 | targets that occur far away | gain over 512 |",
        "|---|---|---|---|---|",
    ]
    for name in part["all"]:
        cells = []
        for kind in ("all", "far"):
            value, less = part[kind][name], part[kind][name]["less"]
            cells.append(f"{value['mean']:.2f} ± {value['error']:.2f}")
            cells.append(f"{less['mean']:+.3f} ± {less['error']:.3f}")
        title = f"{name} tokens" if name.isdigit() else name
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return [
        "## Masked-token loss",
        f"Bits per masked token: the mean over {part['documents']} documents and its standard "
        f"error. {part['excerpts']} excerpts of {LENGTHS[-1]} tokens; {MASKED_FRACTION:.0%} of "
        f"the {TARGET_ZONE} tokens in the middle are masked, and they are the same for every input "
        f"length ({part['targets']['all']:,} targets; the tokens of {part['targets']['far']:,} of "
        "them occur again in the excerpt but not within the 512 tokens). Gains are computed per "
        "document.",
        "\n".join(lines),
    ]


PARTS = {"loss": masked_token_loss, "dating": dating, "far": distant_passages_task}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--short-model", help="a model of the same size, trained on 512 tokens")
    parser.add_argument("--folder", default="long-context-runs", help="for the training runs")
    parser.add_argument("--seeds", type=int, default=3, help="of part 2")
    parser.add_argument("--draws", type=int, default=4, help="random masks per excerpt in part 1")
    parser.add_argument("--far-seeds", type=int, default=2, help="seeds of part 3")
    parser.add_argument(
        "--scratch-steps", type=int, default=200, help="training steps from scratch in part 2"
    )
    parser.add_argument("--only", choices=sorted(PARTS), action="append")
    parser.add_argument("--output", default=str(RESULTS / "long_context.json"))
    arguments = parser.parse_args()
    path = Path(arguments.output)
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in arguments.only or PARTS:
        results[name] = PARTS[name](arguments)
        results |= {"machine": machine(), "model": Path(arguments.model).name}
        write_results(path, results, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
