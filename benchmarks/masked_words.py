"""Measures how well models predict masked words of held-out addresses and books, by input length.

15% of the words in the middle of each excerpt are masked, all tokens of a word at once, and they
are the same for every model and every length. The result is in bits per character of these words,
which compares models with different vocabularies.

    python benchmarks/masked_words.py --held-out-books validation.parquet MODEL ...

The books are those of `mlschmitt/classic-books-markdown`, with a column "text".
"""

import argparse
import itertools
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from random_attention import texts
from report import write_results

from flax_bigbird import FlaxBigBirdForMaskedLM
from flax_bigbird.data.tokenization import load_tokenizer, tokenize
from flax_bigbird.nn.losses import negative_log_likelihood

MASKED_FRACTION = 0.15  # of the words in the middle
MIDDLE_CHARACTERS = 2  # per token of the shortest input, so that it holds the middle
CHARACTERS_PER_TOKEN = 7  # more than there are, so that an excerpt fills the longest input
TOKENS_PER_BATCH = 8192


class Excerpt:
    """Words of a document, some of which are masked.

    Attributes:
      words: The words.
      masked: The indices of the masked words, in ascending order.
      characters: The number of characters of the masked words, with one space each.
    """

    def __init__(self, words: list[str], first: int, last: int, generator: np.random.Generator):
        """Masks `MASKED_FRACTION` of the words `first` to `last` (exclusive)."""
        count = max(1, round(MASKED_FRACTION * (last - first)))
        self.words = words
        self.masked = sorted((first + generator.permutation(last - first)[:count]).tolist())
        self.characters = sum(len(words[index]) + 1 for index in self.masked)


def draw_excerpts(documents: list[str], count: int, lengths: tuple[int, ...]) -> list[Excerpt]:
    """Returns excerpts of random documents, for inputs of up to `max(lengths)` tokens."""
    generator = np.random.default_rng(0)
    size = CHARACTERS_PER_TOKEN * max(lengths)
    middle = round(MIDDLE_CHARACTERS * min(lengths))
    starts = np.array([max(0, len(text) - size) for text in documents], float)
    result = []
    for index in generator.choice(len(documents), count, p=starts / starts.sum()):
        start = int(generator.integers(starts[index]))
        center = start + size // 2
        text = documents[index]
        cuts = [start, center - middle // 2, center + middle // 2, start + size]
        before, within, after = (text[a:b].split() for a, b in itertools.pairwise(cuts))
        # A word that a cut divides counts as two words, which are never masked.
        first = len(before) + 1
        words = [*before, *within, *after]
        result.append(Excerpt(words, first, first + len(within) - 2, generator))
    return result


def evaluate(
    name: str, documents: list[str], count: int, lengths: tuple[int, ...]
) -> dict[int, dict[str, float]]:
    """Returns the bits per character of masked words, and their standard errors, by input length.

    Args:
      name: The model.
      documents: The held-out texts.
      count: The number of excerpts.
      lengths: The numbers of tokens that the model reads.
    """
    tokenizer = load_tokenizer(name)
    model = FlaxBigBirdForMaskedLM.from_pretrained(name)
    model.params = model.to_fp32(model.params)
    excerpts = draw_excerpts(documents, count, lengths)

    @jax.jit
    def bits(params, ids, positions, labels):
        outputs = model(ids, params=params, logits_positions=positions)
        losses = negative_log_likelihood(outputs.logits, jnp.maximum(labels, 0))
        return jnp.where(labels >= 0, losses, 0).sum(-1) / math.log(2)

    tokens = [tokenize(tokenizer, excerpt.words) for excerpt in excerpts]
    results = {}
    for length in lengths:
        size = max(1, TOKENS_PER_BATCH // length)
        slots = min(lengths)
        rows = [
            _row(tokenizer, words, excerpt.masked, length, slots)
            for words, excerpt in zip(tokens, excerpts, strict=True)
        ]
        losses = []
        for start in range(0, count, size):
            part = rows[start : start + size]
            part += part[:1] * (size - len(part))
            batch = [np.stack(columns) for columns in zip(*part, strict=True)]
            losses += np.asarray(bits(model.params, *batch)).tolist()
        results[length] = _mean(np.array(losses[:count]), excerpts)
    return results


def _row(
    tokenizer: Any, words: list[list[int]], masked: list[int], length: int, slots: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the ids `[length]` around the middle, and positions and labels `[slots]`."""
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    for index, word in enumerate(words):
        if index in masked:
            positions += range(len(ids), len(ids) + len(word))
            labels += word
            word = [tokenizer.mask_token_id] * len(word)
        ids += word
    center = (positions[0] + positions[-1]) // 2
    start = max(0, min(center - (length - 2) // 2, len(ids) - (length - 2)))
    row = [tokenizer.cls_token_id, *ids[start : start + length - 2], tokenizer.sep_token_id]
    if len(row) < length:
        raise SystemExit(f"an excerpt has {len(ids)} tokens, which do not fill {length}")
    targets = np.array([np.array(positions) - start + 1, labels], np.int32)
    if targets[0].min() < 1 or targets[0].max() > length - 2 or targets.shape[1] > slots:
        raise SystemExit(f"the masked words do not fit into {length} tokens")
    padded = np.array([[0], [-1]], np.int32).repeat(slots, axis=1)
    padded[:, : targets.shape[1]] = targets
    return np.array(row, np.int32), padded[0], padded[1]


def _mean(losses: np.ndarray, excerpts: list[Excerpt]) -> dict[str, float]:
    characters = np.array([excerpt.characters for excerpt in excerpts])
    mean = losses.sum() / characters.sum()
    error = np.std(losses - mean * characters) * math.sqrt(len(losses)) / characters.sum()
    return {"bits_per_character": float(mean), "error": float(error)}


def held_out_texts(books: str) -> dict[str, list[str]]:
    """Returns the held-out addresses, and the books of a Parquet file."""
    import pyarrow.parquet as parquet

    column = parquet.read_table(books, columns=["text"])["text"]
    return {
        "addresses": texts()[1],
        "books": [" ".join(text.split()) for text in column.to_pylist()],
    }


def table(results: dict[str, Any]) -> str:
    """Returns the Markdown page of all models that were evaluated."""
    lines = [
        "# Masked words, by input length",
        "",
        "Bits per character of masked words in held-out texts, with standard errors "
        "(`python benchmarks/masked_words.py`): State of the Union addresses, and books of "
        "`mlschmitt/classic-books-markdown`. 15% of the words in the middle of an excerpt are "
        "masked, and they are the same for every model and length. An error says how much the "
        "excerpts differ. Differences between models are more certain than that.",
        "",
        "| model | texts | tokens | bits per character |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{Path(name).name}` | {kind} | {int(length):,} | "
        f"{values['bits_per_character']:.3f} ± {values['error']:.3f} |"
        for name, kinds in results.items()
        for kind, lengths in kinds.items()
        for length, values in lengths.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("models", nargs="+", help="shipped names or folders")
    parser.add_argument("--held-out-books", required=True, help="a Parquet file")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--excerpts", type=int, default=200, help="of each kind of text")
    parser.add_argument("--output", help="a JSON file, to which the results are added")
    arguments = parser.parse_args()
    path = Path(arguments.output) if arguments.output else None
    results: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    held_out = held_out_texts(arguments.held_out_books)
    for name in arguments.models:
        for kind, documents in held_out.items():
            result = evaluate(name, documents, arguments.excerpts, tuple(arguments.lengths))
            # Keys of JSON are text: a length that was measured before must not occur twice.
            by_length = {str(length): values for length, values in result.items()}
            results.setdefault(name, {}).setdefault(kind, {}).update(by_length)
            for length, values in result.items():
                line = f"{values['bits_per_character']:.3f} ± {values['error']:.3f}"
                print(f"{name}: {kind}, {length} tokens: {line} bits per character", flush=True)
        if path:
            write_results(path, results, table(results))


if __name__ == "__main__":
    main()
