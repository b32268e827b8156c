"""Interpolated Markov models of sequences of bases, left to right and with context on both sides.

A chain is a series of nested contexts, each `(left, right)` bases before and after a base. The
probability of a base is interpolated from the shortest context to the longest:

    p_j(b | c_j) = (n(c_j, b) + w_j p_{j-1}(b | c_{j-1})) / (n(c_j) + w_j)

with the counts `n` of the training sequence, p_{-1} = 1/4, and weights w_j that are chosen on a
validation sequence. The length of a chain is chosen there too.
"""

import numpy as np
from scipy.optimize import minimize

UNKNOWN = 4  # the code of N, and of a masked base
WEIGHTS = (0.5, 2.0, 8.0, 32.0, 128.0, 512.0)

Context = tuple[int, int]


def encode_bases(text: str) -> np.ndarray:
    """Returns the codes of bases: 0 to 3 for A, C, G and T, and `UNKNOWN` for all others."""
    table = np.full(256, UNKNOWN, np.int8)
    table[np.frombuffer(b"ACGT", np.uint8)] = range(4)
    return table[np.frombuffer(text.encode(), np.uint8)]


def left_chain(order: int) -> list[Context]:
    """Returns the contexts of a model that reads from left to right."""
    return [(length, 0) for length in range(order + 1)]


def right_chain(order: int) -> list[Context]:
    """Returns the contexts of a model that reads from right to left."""
    return [(0, length) for length in range(order + 1)]


def two_sided_chain(order: int) -> list[Context]:
    """Returns contexts of as many bases on the left as on the right."""
    return [(length, length) for length in range(order + 1)]


class MarkovModel:
    """The counts and weights of a chain.

    Args:
      chain: The contexts, from the shortest to the longest.
      training: `[n]`, the codes of the training sequence.
      validation: `[m]`, the codes of a sequence as it is seen, with masked bases `UNKNOWN`.
      positions: `[p]`, the positions of the validation sequence that are predicted.
      targets: `[p]`, their codes.
    """

    def __init__(
        self,
        chain: list[Context],
        training: np.ndarray,
        validation: np.ndarray,
        positions: np.ndarray,
        targets: np.ndarray,
    ):
        self.chain: list[Context] = []
        self.weights: list[float] = []
        self._tables: list[np.ndarray] = []
        best, tables = np.inf, []
        probabilities = np.full((len(positions), 4), 0.25)
        weights: list[float] = []
        for context in chain:
            table = _count(training, context)
            choices = [
                _interpolate(table, context, weight, probabilities, validation, positions)
                for weight in WEIGHTS
            ]
            bits = [mean_bits(choice, targets) for choice in choices]
            index = int(np.argmin(bits))
            probabilities = choices[index]
            weights.append(WEIGHTS[index])
            tables.append(table)
            if bits[index] < best:
                best = bits[index]
                self.chain = chain[: len(tables)]
                self.weights, self._tables = list(weights), list(tables)

    @property
    def order(self) -> int:
        """The number of bases on a side of the longest context."""
        return max(self.chain[-1])

    def probabilities(self, codes: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Returns the probabilities of the four bases at positions of a sequence, `[p, 4]`."""
        result = np.full((len(positions), 4), 0.25)
        for context, weight, table in zip(self.chain, self.weights, self._tables, strict=True):
            result = _interpolate(table, context, weight, result, codes, positions)
        return result


def fit_left_to_right(codes: np.ndarray, max_order: int, validation_fraction: float) -> MarkovModel:
    """Returns a model of the bases on the left, chosen on the end of a sequence.

    Args:
      codes: `[n]`, the codes of the sequence.
      max_order: The maximum number of bases on the left.
      validation_fraction: The fraction of the sequence, at its end, that is not counted.
    """
    training, validation = _split(codes, validation_fraction)
    known = np.flatnonzero(validation != UNKNOWN)
    return MarkovModel(left_chain(max_order), training, validation, known, validation[known])


class TwoSidedMixture:
    """Predicts masked bases from the bases around them, some of which are masked too.

    It is a log-linear mixture of a model of the bases on the left, one of those on the right, and
    one of as many on the left as on the right. Contexts are as long as masked bases allow.

    Args:
      codes: `[n]`, the codes of the sequence to train on.
      max_order: The maximum number of bases of a context.
      validation_fraction: The fraction of the sequence, at its end, that is not counted; the orders
        and the weights are chosen there, for bases that are masked at random.
      masked_fraction: The fraction of bases that are masked.
    """

    def __init__(
        self, codes: np.ndarray, max_order: int, validation_fraction: float, masked_fraction: float
    ):
        training, validation = _split(codes, validation_fraction)
        known = np.flatnonzero(validation != UNKNOWN)
        count = round(len(known) * masked_fraction)
        masked = np.sort(np.random.default_rng(1).permutation(known)[:count])
        seen = validation.copy()
        seen[masked] = UNKNOWN
        targets = validation[masked]
        chains = (
            left_chain(max_order),
            right_chain(max_order),
            two_sided_chain(max_order // 2),
        )
        self.models = [MarkovModel(chain, training, seen, masked, targets) for chain in chains]
        self.weights = fit_mixture(self._features(seen, masked), targets)

    def __str__(self) -> str:
        left, right, both = (model.order for model in self.models)
        return f"up to {left} on the left, {right} on the right, {both} on each side at once"

    def masked_bits(self, codes: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Returns the bits of the bases at positions of a sequence if they are masked, `[p]`."""
        seen = codes.copy()
        seen[positions] = UNKNOWN
        return bits(mix(self._features(seen, positions), self.weights), codes[positions])

    def _features(self, seen: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
        return [model.probabilities(seen, positions) for model in self.models]


def fit_mixture(features: list[np.ndarray], targets: np.ndarray) -> np.ndarray:
    """Returns the weights of a log-linear mixture of models that fit the targets best.

    Args:
      features: The probabilities of each model, `[p, 4]` each.
      targets: `[p]`, the codes.
    """
    logs = np.log(np.stack(features))

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = mix(features, weights)
        error = mixed.copy()
        error[np.arange(len(targets)), targets] -= 1
        gradient = (logs * error).sum((1, 2)) / len(targets)
        return mean_bits(mixed, targets) * np.log(2), gradient

    start = np.full(len(features), 1 / len(features))
    return minimize(loss, start, jac=True, method="BFGS").x


def mix(features: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Returns the probabilities `[p, 4]` of a log-linear mixture of models."""
    logits = np.tensordot(weights, np.log(np.stack(features)), 1)
    logits -= logits.max(-1, keepdims=True)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def bits(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the number of bits that each target takes, `[p]`."""
    return -np.log2(probabilities[np.arange(len(targets)), targets])


def mean_bits(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Returns the mean number of bits of the targets."""
    return float(bits(probabilities, targets).mean())


def _split(codes: np.ndarray, validation_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    count = round(len(codes) * (1 - validation_fraction))
    return codes[:count], codes[count:]


def _context_ids(
    codes: np.ndarray, context: Context, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the index of the context of each position, and whether all of it is known."""
    left, right = context
    ids = np.zeros(len(positions), np.int64)
    known = np.ones(len(positions), bool)
    for offset in [*range(-left, 0), *range(1, right + 1)]:
        places = positions + offset
        inside = (places >= 0) & (places < len(codes))
        code = np.where(inside, codes[np.clip(places, 0, len(codes) - 1)], UNKNOWN)
        known &= code != UNKNOWN
        ids = ids * 4 + np.where(code == UNKNOWN, 0, code)
    return ids, known


def _count(codes: np.ndarray, context: Context) -> np.ndarray:
    """Returns how often each base follows each context, `[contexts, 4]`."""
    size = 4 ** (sum(context) + 1)
    counts = np.zeros(size, np.int64)
    for start in range(0, len(codes), 2**20):  # in parts, to save memory
        positions = np.arange(start, min(start + 2**20, len(codes)))
        ids, known = _context_ids(codes, context, positions)
        known &= codes[positions] != UNKNOWN
        counts += np.bincount(ids[known] * 4 + codes[positions[known]], minlength=size)
    return counts.reshape(-1, 4)


def _interpolate(
    table: np.ndarray,
    context: Context,
    weight: float,
    shorter: np.ndarray,
    codes: np.ndarray,
    positions: np.ndarray,
) -> np.ndarray:
    ids, known = _context_ids(codes, context, positions)
    counts = table[ids]
    longer = (counts + weight * shorter) / (counts.sum(-1, keepdims=True) + weight)
    return np.where(known[:, None], longer, shorter)
