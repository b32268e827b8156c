"""Speeches as fixed-length windows of pieces: `[CLS] pieces [SEP]` and padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flax_bigbird.cli.demo.data import CLASS_YEARS, FIRST_YEAR, LABELS

_FRAME = 2  # [CLS] and [SEP]


@dataclass(frozen=True)
class SpecialIds:
    """The ids of the pieces that are no text."""

    pad: int
    cls: int
    sep: int
    mask: int

    @classmethod
    def of(cls, tokenizer) -> "SpecialIds":
        return cls(
            tokenizer.pad_token_id,
            tokenizer.cls_token_id,
            tokenizer.sep_token_id,
            tokenizer.mask_token_id,
        )


def window(
    pieces: Sequence[int], start: int, length: int, special: SpecialIds
) -> tuple[np.ndarray, np.ndarray]:
    """(input_ids, attention_mask), [length] each, of the pieces from `start` on."""
    body = pieces[start : start + length - _FRAME]
    ids = np.full(length, special.pad, np.int32)
    ids[: len(body) + _FRAME] = [special.cls, *body, special.sep]
    mask = np.zeros(length, np.int32)
    mask[: len(body) + _FRAME] = 1
    return ids, mask


def starts(total: int, length: int) -> list[int]:
    """Where windows of `length` begin so that they cover `total` pieces; the last ends at the end.

    They are spread evenly: neighbours overlap a little rather than the last being nearly empty.
    """
    room = length - _FRAME
    count = max(1, -(-total // room))
    return [round(start) for start in np.linspace(0, max(0, total - room), count)]


def soft_target(year: int, blur_years: float) -> np.ndarray:
    """[classes]: how much of a bell curve around `year`, `blur_years` wide, lies in each class.

    1799 and 1801 speak alike and are two classes; 1775 to 1799 is one.
    """
    if blur_years <= 0:
        raise ValueError(f"blur_years must be positive; got {blur_years}")
    reach = np.arange(-4 * blur_years, 4 * blur_years + 0.5)
    weight = np.exp(-0.5 * (reach / blur_years) ** 2)
    classes = np.clip((year + reach - FIRST_YEAR) // CLASS_YEARS, 0, len(LABELS) - 1).astype(int)
    target = np.bincount(classes, weight, len(LABELS))
    return (target / target.sum()).astype(np.float32)


def training_batches(
    pieces: Sequence[Sequence[int]],
    targets: np.ndarray,
    *,
    length: int,
    batch: int,
    masked_share: float,
    special: SpecialIds,
    generator: np.random.Generator,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches: the speeches in random order, a random window of each, some pieces masked.

    Yields:
      input_ids and attention_mask [batch, length], targets [batch, classes].
    """
    queue: list[int] = []
    while True:
        rows = []
        while len(rows) < batch:
            if not queue:
                queue = generator.permutation(len(pieces)).tolist()
            index = queue.pop()
            last_start = max(0, len(pieces[index]) - (length - _FRAME))
            start = int(generator.integers(0, last_start + 1))
            ids, mask = window(pieces[index], start, length, special)
            hidden = generator.random(length) < masked_share
            hidden &= (mask == 1) & (ids != special.cls) & (ids != special.sep)
            rows.append((np.where(hidden, special.mask, ids), mask, targets[index]))
        ids, masks, wanted = (np.stack(column) for column in zip(*rows, strict=True))
        yield {"input_ids": ids, "attention_mask": masks, "targets": wanted}
