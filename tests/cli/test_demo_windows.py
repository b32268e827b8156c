import numpy as np
import pytest

from flax_bigbird.cli.demo import windows

SPECIAL = windows.SpecialIds(pad=0, cls=4, sep=5, mask=6)


def test_a_window_is_framed_and_padded():
    ids, mask = windows.window([10, 11, 12], 1, 6, SPECIAL)
    assert ids.tolist() == [4, 11, 12, 5, 0, 0]
    assert mask.tolist() == [1, 1, 1, 1, 0, 0]


def test_a_window_holds_no_more_than_its_length():
    ids, mask = windows.window(list(range(10, 30)), 3, 6, SPECIAL)
    assert ids.tolist() == [4, 13, 14, 15, 16, 5]
    assert mask.all()


@pytest.mark.parametrize("total", [0, 1, 7, 8, 9, 16, 17, 100])
def test_windows_cover_every_piece_and_begin_and_end_with_the_text(total):
    length = 10
    found = windows.starts(total, length)
    covered = {p for start in found for p in range(start, min(total, start + length - 2))}
    assert covered == set(range(total))
    assert found[0] == 0
    assert len(found) == max(1, -(-total // (length - 2)))
    assert found[-1] == max(0, total - (length - 2))


def test_targets_are_blurred_across_a_border_only():
    middle = windows.soft_target(1887, 3.0)
    assert middle[4] > 0.999
    border = windows.soft_target(1799, 3.0)
    assert 0.5 < border[0] < 0.65
    assert border[0] + border[1] == pytest.approx(1)
    assert windows.soft_target(2026, 3.0)[-1] == pytest.approx(1)
    assert windows.soft_target(1775, 3.0)[0] == pytest.approx(1)


def test_a_blur_of_nothing_is_refused():
    with pytest.raises(ValueError, match="positive; got 0"):
        windows.soft_target(1800, 0)


def _batches(seed, masked_share=0.0):
    pieces = [[100 * row + column for column in range(30)] for row in range(1, 6)]
    return windows.training_batches(
        pieces,
        np.eye(5, 10, dtype=np.float32),
        length=12,
        batch=5,
        masked_share=masked_share,
        special=SPECIAL,
        generator=np.random.default_rng(seed),
    )


def test_a_pass_reads_every_speech_once_with_its_own_target():
    batch = next(_batches(0))
    rows = batch["input_ids"][:, 1] // 100
    assert sorted(rows) == [1, 2, 3, 4, 5]
    assert (batch["targets"].argmax(-1) == rows - 1).all()
    assert (np.diff(batch["input_ids"][:, 1:-1]) == 1).all()


def test_batches_follow_the_seed():
    first, again, other = _batches(3), _batches(3), _batches(4)
    for _ in range(4):
        ids = next(first)["input_ids"]
        assert (ids == next(again)["input_ids"]).all()
        assert (ids != next(other)["input_ids"]).any()


def test_masking_spares_the_frame():
    batch = next(_batches(0, masked_share=1.0))
    assert (batch["input_ids"][:, 0] == SPECIAL.cls).all()
    assert (batch["input_ids"][:, -1] == SPECIAL.sep).all()
    assert (batch["input_ids"][:, 1:-1] == SPECIAL.mask).all()
