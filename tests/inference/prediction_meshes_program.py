"""`python prediction_meshes_program.py FOLDER SEED [NAME...]`: answers on meshes and on one device.

It prints a JSON line per case, all of them if none is named: what differs in the answers, and in
the metrics of the first that is named, and how many programs were compiled.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import jax
from meshes import all_sizes
from tiny_checkpoints import LABELS, Checkpoints, sentence

from flax_bigbird.inference import evaluate, load_embedder, load_predictor

TOLERANCE = 1e-5
LENGTHS = (1, 30, 4, 200, 12, 150, 60)  # in words; a window has about 60
TEXTS = [sentence(n, length) for n, length in enumerate(LENGTHS)]
NAMES = list(LABELS.values())


def context(n: int) -> dict[str, Any]:
    text = sentence(n, LENGTHS[n])
    answer = text.split()[-1]
    start = len(text) - len(answer)
    return {
        "question": sentence(n + 20, 3),
        "context": text,
        "answers": {"text": [answer], "answer_start": [start]},
    }


def labeled(**values: Any) -> list[dict[str, Any]]:
    return [
        {"text": text} | {k: v[n % 2] for k, v in values.items()} for n, text in enumerate(TEXTS)
    ]


CLASSIFIER = "FlaxBigBirdForSequenceClassification"
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[Any]]] = {
    # The head, changes of its configuration, options, and rows.
    "sequence-classification": (
        CLASSIFIER,
        {},
        {"whole_documents": True},
        labeled(label=["meadow", "harbour"]),
    ),
    "sets of labels": (
        CLASSIFIER,
        {"problem_type": "multi_label_classification"},
        {},
        labeled(label=[["meadow"], ["harbour", "neither"]]),
    ),
    "token-classification": (
        "FlaxBigBirdForTokenClassification",
        {},
        {},
        [{"tokens": t.split(), "tags": ["meadow"] * len(t.split())} for t in TEXTS],
    ),
    "question-answering": (
        "FlaxBigBirdForQuestionAnswering",
        {},
        {"stride": 8},
        [context(n) for n in range(7)],
    ),
    "multiple-choice": (
        "FlaxBigBirdForMultipleChoice",
        {},
        {},
        labeled(choices=[NAMES, NAMES[:2]], label=[0, 1]),
    ),
    "reranking": (
        CLASSIFIER,
        {"id2label": {0: "LABEL_0"}},
        {},
        [{"query": "the cow", "document": t, "label": n % 2} for n, t in enumerate(TEXTS)],
    ),
    "masked-lm": (
        "FlaxBigBirdForMaskedLM",
        {},
        {},
        [{"text": f"the cow grazes in a [MASK] {text}"} for text in TEXTS],
    ),
    "next-sentence": (
        "FlaxBigBirdForPreTraining",
        {},
        {},
        [{"text": f"the cow [MASK] in {text}"} for text in TEXTS],
    ),
    "causal-lm": (
        "FlaxBigBirdForCausalLM",
        {"is_decoder": True},
        {"max_new_tokens": 4, "temperature": 1.0},
        [{"text": text} for text in TEXTS],
    ),
    "embedding": (
        "FlaxBigBirdModel",
        {},
        {},
        [{"query": sentence(n, 9), "document": text} for n, text in enumerate(TEXTS)],
    ),
}


class Programs:
    """Counts what XLA compiles."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        self.count += event.endswith("backend_compile_duration")


def differences(got: Any, want: Any, path: str = "") -> list[str]:
    """Returns where two answers differ: numbers by more than the tolerance, others at all."""
    if isinstance(want, dict):
        return [d for key in want for d in differences(got.get(key), want[key], f"{path}.{key}")]
    if isinstance(want, list | tuple):
        if len(got) != len(want):
            return [f"{path}: {len(got)} for {len(want)}"]
        return [
            d
            for i, pair in enumerate(zip(got, want, strict=True))
            for d in differences(*pair, f"{path}[{i}]")
        ]
    if hasattr(want, "tolist"):
        return differences(got.tolist(), want.tolist(), path)
    close = isinstance(want, float) and abs(got - want) <= TOLERANCE * max(1, abs(want))
    return [] if close or got == want else [f"{path}: {got} for {want}"]


def answers(name: str, folder: str, rows: list[Any], **options: Any) -> Any:
    """Returns the answers for rows; of embedding, the vectors of texts and of their chunks."""
    if name != "embedding":
        task = "reranking" if name == "reranking" else None
        return load_predictor(folder, task=task, **options)(rows)
    embedder = load_embedder(folder, **options)
    chunks = embedder.encode_chunks(TEXTS, chunk_size=16, chunk_overlap=4, batch_size=4)
    return [embedder.encode(TEXTS), [list(c) for c in chunks], embedder.encode(TEXTS[0])]


def compare(name: str, folder: Path, mesh: tuple[int, dict[str, int]], evaluates: bool):
    """Returns what differs between the answers, and the metrics, of a mesh and of one device."""
    head, changes, options, rows = CASES[name]
    model = Checkpoints(folder)(head, num_attention_heads=8, **changes)
    count, sizes = mesh
    text = ",".join(f"{axis}={size}" for axis, size in sizes.items())
    results, programs = [], Programs()
    for on_devices in (
        {"devices": jax.devices()[:1]},
        {"devices": jax.devices()[:count], "mesh": text},
    ):
        programs.count = 0
        results.append([answers(name, model, rows, **options, **on_devices), programs.count, {}])
        if evaluates:
            kept = {k: v for k, v in options.items() if k in ("whole_documents", "stride")}
            task = name if name in ("reranking", "embedding") else None
            metrics = evaluate(model, rows, task=task, **kept, **on_devices)["metrics"]
            results[-1][2] = metrics
    (want, few, metrics), (got, many, metrics_of_mesh) = results
    return {
        "name": name,
        "mesh": text,
        "answers": differences(got, want)[:3],
        "metrics": differences(metrics_of_mesh, metrics),
        "num_metrics": len(metrics),
        "programs": [few, many],
    }


def main() -> None:
    folder, seed, *names = sys.argv[1:]
    generator = random.Random(int(seed))
    meshes = [(n, sizes) for n in (2, 4, 8) for sizes in all_sizes(n)]
    for index, name in enumerate(names or CASES):
        # Generation has a cache, which is not split by tokens.
        allowed = [m for m in meshes if name != "causal-lm" or "sequence" not in m[1]]
        result = compare(name, Path(folder), generator.choice(allowed), not names or index == 0)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
