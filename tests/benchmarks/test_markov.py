"""The Markov models of `benchmarks/markov.py`, against counts by hand."""

import numpy as np
import pytest


def sequence(length: int, seed: int = 0) -> np.ndarray:
    """Returns bases, each of which is the one before it with probability 0.7."""
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 4, length, np.int8)
    for index in np.flatnonzero(generator.random(length) < 0.7):
        if index:
            codes[index] = codes[index - 1]
    return codes


def test_other_letters_are_unknown(benchmark):
    assert benchmark("markov").encode_bases("ACGTNR").tolist() == [0, 1, 2, 3, 4, 4]


def test_probabilities_are_interpolated_counts(benchmark):
    markov = benchmark("markov")
    training = markov.encode_bases("ACACACAG")
    validation = markov.encode_bases("ACG")
    positions = np.array([1])
    model = markov.MarkovModel(
        markov.left_chain(1), training, validation, positions, validation[positions]
    )
    order_0, order_1 = model.weights
    base = (np.array([4, 3, 1, 0]) + order_0 / 4) / (8 + order_0)
    after_a = (np.array([0, 3, 1, 0]) + order_1 * base) / (4 + order_1)
    np.testing.assert_allclose(model.probabilities(validation, positions), [after_a])
    # A masked base before it leaves the shorter context.
    hidden = markov.encode_bases("NCG")
    np.testing.assert_allclose(model.probabilities(hidden, positions), [base])


def test_contexts_do_not_cross_unknown_bases(benchmark):
    markov = benchmark("markov")
    separate = markov._count(markov.encode_bases("ACNGT"), (1, 0))
    assert separate.sum() == 2
    assert separate[0, 1] == separate[2, 3] == 1


def test_two_sides_predict_masked_bases_better_than_one(benchmark):
    markov = benchmark("markov")
    codes, test = sequence(40_000), sequence(4000, seed=1)
    positions = np.sort(np.random.default_rng(2).permutation(4000)[:600])
    mixture = markov.TwoSidedMixture(codes, 4, 0.1, 0.15)
    both = mixture.masked_bits(test, positions).mean()
    left = markov.fit_left_to_right(codes, 4, 0.1)
    one = markov.bits(left.probabilities(test, positions), test[positions]).mean()
    assert both < one - 0.2 < 2
    # The left-to-right model is near the entropy of the chain.
    p = np.array([0.775, 0.075, 0.075, 0.075])
    assert one == pytest.approx(-(p * np.log2(p)).sum(), abs=0.1)


def test_the_masked_base_is_not_seen(benchmark):
    markov = benchmark("markov")
    mixture = markov.TwoSidedMixture(sequence(20_000), 3, 0.1, 0.15)
    test = sequence(50, seed=3)
    total = 0.0
    for base in range(4):
        changed = test.copy()
        changed[20] = base
        total += 2 ** -mixture.masked_bits(changed, np.array([20]))[0]
    assert total == pytest.approx(1)
