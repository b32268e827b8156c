"""What reading further is worth, on held-out State of the Union addresses.

1. Masked-token loss of one model on the same targets, in the middle of 512, 1024, 2048 and 4096
   tokens; on all targets, and on those that stand elsewhere in the 4096 tokens but not within 512.
2. Telling the quarter-century of a speech (`bigbird demo`) from its first 512 to 4096 tokens, from
   windows of 512 averaged, from the whole, and by TF-IDF, over seeds.
3. Telling which of two addresses in one document is the older (`far_places.py`): the whole
   document, its beginning, windows of 512 averaged, and TF-IDF, over seeds.

Each part is written when it is done; runs that were finished or broken off in --folder are gone on
with.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import far_places
import jax
import numpy as np
from model import processor
from random_attention import texts

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
from flax_bigbird.train import train

LENGTHS = (512, 1024, 2048, 4096)
ZONE, MASKED = 256, 0.15  # tokens in the middle, and the share of them that is masked
RESULTS = Path(__file__).parent / "results"


def stretches(tokenizer: Any, held_out: list[str]) -> list[tuple[int, list[int]]]:
    """(document, pieces) of all whole stretches of the longest length, none overlapping."""
    room = LENGTHS[-1] - 2
    return [
        (number, pieces[at : at + room])
        for number, pieces in enumerate(tokenize(tokenizer, held_out))
        for at in range(0, len(pieces) - room + 1, room)
    ]


def losses(model: Any, tokenizer: Any, found: list, draws: int, length: int) -> np.ndarray:
    """[draws, stretches, targets]: bits of the pieces masked in the middle, read with `length`."""
    count = round(ZONE * MASKED)

    @jax.jit
    def bits(params, ids, positions, labels):
        logits = model(ids, params=params, logits_positions=positions).logits
        return negative_log_likelihood(logits, labels) / math.log(2)

    def one(draw: int, number: int, pieces: list[int]) -> np.ndarray:
        targets = middle_targets(draw, number)
        ids = np.array(pieces, np.int32)
        labels = ids[targets]
        ids[targets] = tokenizer.mask_token_id
        room = length - 2
        start = (len(ids) - room) // 2
        row = [tokenizer.cls_token_id, *ids[start : start + room], tokenizer.sep_token_id]
        where = targets - start + 1
        assert where.min() > 0
        assert where.max() <= room
        parts = (np.array(row, np.int32), where.astype(np.int32), labels)
        return np.asarray(bits(model.params, *(part[None] for part in parts)))[0]

    made = [[one(d, n, pieces) for n, (_, pieces) in enumerate(found)] for d in range(draws)]
    return np.array(made).reshape(draws, len(found), count)


def middle_targets(draw: int, number: int) -> np.ndarray:
    """Places in a stretch of pieces, the same whatever is read around them."""
    first = (LENGTHS[-1] - 2 - ZONE) // 2
    generator = np.random.default_rng([draw, number])
    return first + np.sort(generator.choice(ZONE, round(ZONE * MASKED), replace=False))


def only_far(found: list, draws: int) -> np.ndarray:
    """[draws, stretches, targets]: whether a target's piece occurs again, but not within 512."""
    near = LENGTHS[0] - 2
    result = []
    for draw in range(draws):
        rows = []
        for number, (_, pieces) in enumerate(found):
            targets = middle_targets(draw, number)
            shown = np.delete(np.array(pieces), targets)
            start = (len(pieces) - near) // 2
            inside = np.arange(start, start + near)
            close = set(np.array(pieces)[np.setdiff1d(inside, targets)])
            anywhere = set(shown)
            rows.append([pieces[t] in anywhere and pieces[t] not in close for t in targets])
        result.append(rows)
    return np.array(result)


def by_document(values: np.ndarray, documents: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """[documents]: the mean of each document's chosen values; those without any are left out."""
    kept = np.broadcast_to(documents[None, :, None], values.shape)[chosen]
    total = np.bincount(kept, values[chosen], documents.max() + 1)
    count = np.bincount(kept, minlength=documents.max() + 1)
    return total[count > 0] / count[count > 0]


def with_error(values: np.ndarray) -> dict[str, float]:
    """The mean of independent values and its standard error."""
    return {
        "mean": float(values.mean()),
        "error": float(values.std(ddof=1) / math.sqrt(len(values))),
        "count": len(values),
    }


def masked_token_loss(arguments: argparse.Namespace) -> dict[str, Any]:
    """Part 1: bits a masked piece by how much is read, and the difference to 512, by document."""
    tokenizer = load_tokenizer(arguments.model)
    training, held_out = texts()
    found = stretches(tokenizer, held_out)
    documents = np.array([number for number, _ in found])
    model = FlaxBigBirdForMaskedLM.from_pretrained(arguments.model, padding_invariant=True)
    model.params = model.to_fp32(model.params)
    made: dict[Any, np.ndarray] = {
        n: losses(model, tokenizer, found, arguments.draws, n) for n in LENGTHS
    }
    if arguments.short_model:
        short = FlaxBigBirdForMaskedLM.from_pretrained(arguments.short_model)
        made["short model, 512"] = losses(short, tokenizer, found, arguments.draws, LENGTHS[0])
    counts = (
        np.bincount(np.concatenate(tokenize(tokenizer, training)), minlength=len(tokenizer)) + 1
    )
    unigram = -np.log2(counts / counts.sum())
    targets = [
        [np.array(pieces)[middle_targets(d, n)] for n, (_, pieces) in enumerate(found)]
        for d in range(arguments.draws)
    ]
    made["unigram"] = unigram[np.array(targets)]
    far = only_far(found, arguments.draws)
    kinds = {"all": np.ones_like(far), "far": far}
    result: dict[str, Any] = {
        "stretches": len(found),
        "documents": len(set(documents)),
        "targets": {kind: int(chosen.sum()) for kind, chosen in kinds.items()},
    }
    for kind, chosen in kinds.items():
        base = by_document(made[LENGTHS[0]], documents, chosen)
        result[kind] = {}
        for name, values in made.items():
            mean = by_document(values, documents, chosen)
            result[kind][str(name)] = with_error(mean) | {"less": with_error(base - mean)}
    return result


def accuracy(folder: Path, rows: list[dict[str, str]], length: int, *, whole: bool) -> float:
    classify = load_predictor(folder, max_length=length, whole_documents=whole)
    right = 0
    for at in range(0, len(rows), 8):
        part = rows[at : at + 8]
        answers = classify([row["text"] for row in part])
        right += sum(a["label"] == r["label"] for a, r in zip(answers, part, strict=True))
    return right / len(rows)


def read_rows(path: str | Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def dating(arguments: argparse.Namespace) -> dict[str, Any]:
    """Part 2: the demo's task with the demo's settings, once a seed; from scratch beside it, with
    `--scratch-steps`."""
    training, held_out = select_speeches(Settings())
    counted = baselines.tfidf_predictions(training, held_out)
    found: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    steps: dict[str, int] = {}
    for seed in range(arguments.seeds):
        for start in ("fine-tuned", "from scratch"):
            scratch = start == "from scratch"
            settings = Settings(seed=seed, model=arguments.model, from_scratch=scratch)
            if scratch:
                settings = dataclasses.replace(settings, steps=arguments.scratch_steps)
            folder = Path(arguments.folder) / f"dating-{start.replace(' ', '-')}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            write_jsonl(folder / TRAINING_FILE, training)
            write_jsonl(folder / HELD_OUT_FILE, held_out)
            report = train(training_options(folder, settings))
            seconds.setdefault(start, []).append(report["seconds"])
            steps[start] = settings.steps
            rows = read_rows(folder / HELD_OUT_FILE)
            cut = () if scratch else LENGTHS
            for length in cut:
                value = accuracy(folder / "run", rows, length, whole=False)
                found.setdefault(f"{start}, first {length}", []).append(value)
            for length in (LENGTHS[0], LENGTHS[-1]):
                value = accuracy(folder / "run", rows, length, whole=True)
                found.setdefault(f"{start}, windows of {length}", []).append(value)
        print(seed, {name: values[-1] for name, values in found.items()}, flush=True)
    right = [label == s.label for label, s in zip(counted, held_out, strict=True)]
    found["TF-IDF, whole"] = [float(np.mean(right))]
    return {
        "held_out": len(held_out),
        "accuracy": found,
        "training_seconds": seconds,
        "steps": steps,
    }


def far_task(arguments: argparse.Namespace) -> dict[str, Any]:
    """Part 3: which of two addresses is the older, going on from part 2's models."""
    training, held_out = split_by_year(load_speeches())
    folder = Path(arguments.folder)
    known = far_places.documents(training, 2000, seed=0)
    rows = far_places.documents(held_out, 100, seed=1)
    found: dict[str, list[float]] = {}
    for seed in range(arguments.far_seeds):
        dated = folder / f"dating-fine-tuned-{seed}" / "run"
        if not dated.exists():
            raise SystemExit(f"{dated} must be there: run part 2, dating, first")
        whole = far_places.train_on_whole(known, dated, folder / f"far-{seed}", seed)
        for length in LENGTHS[:3]:
            value = accuracy(whole, rows, length, whole=False)
            found.setdefault(f"first {length}", []).append(value)
        windows = far_places.train_on_windows(known, dated, folder / f"far-{seed}", seed)
        value = accuracy(windows, rows, far_places.WINDOW, whole=True)
        found.setdefault(f"windows of {far_places.WINDOW}", []).append(value)
        print(seed, {name: values[-1] for name, values in found.items()}, flush=True)
    found["TF-IDF, whole"] = [_tfidf(known, rows)]
    found["the first address's true year"] = [far_places.from_one_place(held_out)]
    return {"test": len(rows), "steps": far_places.STEPS, "accuracy": found}


def _tfidf(training: list[dict[str, str]], test: list[dict[str, str]]) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=100.0))
    model.fit([row["text"] for row in training], [row["label"] for row in training])
    return float(model.score([row["text"] for row in test], [row["label"] for row in test]))


def table(found: dict[str, Any]) -> str:
    """The Markdown page of all parts that are done."""
    parts = [
        "# What reading further is worth",
        "`bigbird-sotu-mini` on held-out State of the Union addresses; "
        f"{found['machine']['cores']} cores, {found['machine']['processor']}; "
        f"`python benchmarks/long_context.py`. {found.get('note', '')}".strip(),
    ]
    if "loss" in found:
        parts += _loss_table(found["loss"])
    for name, lines in (("dating", _DATING), ("far", _FAR)):
        if name in found:
            parts += [*(line.format(**found[name]) for line in lines), _accuracies(found[name])]
    return "\n\n".join(parts) + "\n"


_DATING = (
    "## Telling the quarter-century of an address",
    "Ten classes, {held_out} held-out addresses, the settings of `bigbird demo`; steps, of 8,192 "
    "tokens: {steps}. Accuracy, mean and standard deviation over seeds.",
)
_FAR = (
    "## Which of two addresses is the older",
    "A page of one address, a page of the States' names, a page of another address from 40 to 69 "
    "years before or after: 2,048 tokens in all (`far_places.py`). {test} test documents, every "
    "pair in both orders. From the models of the part above; steps, of 8,192 tokens: {steps}. "
    "Accuracy, mean and standard deviation over seeds. The last line is what the true year of the "
    "first address alone would tell.",
)


def _accuracies(part: dict[str, Any]) -> str:
    lines = ["| read | accuracy | each seed |", "|---|---|---|"]
    for name, values in part["accuracy"].items():
        error = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
        each = ", ".join(f"{value:.3f}" for value in values) if len(values) > 1 else ""
        lines.append(f"| {name} | {np.mean(values):.3f}{error} | {each} |")
    for name, values in part.get("training_seconds", {}).items():
        each = ", ".join(f"{value:.0f}" for value in values)
        lines.append(f"| training, {name}, seconds | {np.mean(values):.0f} | {each} |")
    return "\n".join(lines)


def _loss_table(part: dict[str, Any]) -> list[str]:
    lines = [
        "| read | all targets | less than with 512 | targets that occur far away only | less |",
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
        f"Bits a masked piece: the mean over {part['documents']} documents, ± its standard error; "
        f"{part['stretches']} stretches of {LENGTHS[-1]} tokens, {MASKED:.0%} of the {ZONE} tokens "
        "in the middle masked, the same targets whatever is read around them "
        f"({part['targets']['all']:,}; of them {part['targets']['far']:,} are pieces that occur in "
        "the stretch but not in the 512 tokens). Differences are by document.",
        "\n".join(lines),
    ]


PARTS = {"loss": masked_token_loss, "dating": dating, "far": far_task}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bigbird-sotu-mini")
    parser.add_argument("--short-model", help="one of the same size that has read 512 at most")
    parser.add_argument("--folder", default="long-context-runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=4, help="of masked pieces")
    parser.add_argument("--far-seeds", type=int, default=2, help="of part 3")
    parser.add_argument("--scratch-steps", type=int, default=200, help="from scratch, in part 2")
    parser.add_argument("--only", choices=sorted(PARTS), action="append")
    parser.add_argument("--output", default=str(RESULTS / "long_context.json"))
    arguments = parser.parse_args()
    path = Path(arguments.output)
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in arguments.only or PARTS:
        found[name] = PARTS[name](arguments)
        found["machine"] = {
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        path.write_text(json.dumps(found, indent=1) + "\n")
        path.with_suffix(".md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
