"""What this package adds to a `BigBirdConfig`: the options of attention, and of a classifier.

`transformers.BigBirdConfig` has no keys for the window, the global blocks, the rule of the random
blocks, or the pooling of a sequence classifier. This package adds them to `config.json` as optional
keys; a published checkpoint lacks them and gets the defaults.
"""

import dataclasses
from typing import Any, ClassVar, Literal

from flax_bigbird.attention import BLOCK_SPARSE_IMPLEMENTATIONS, FULL_IMPLEMENTATIONS, Layout
from flax_bigbird.attention.numerics import Dimension
from flax_bigbird.attention.patterns.block_pattern import MAX_BLOCK_SIZE, MAX_BLOCKS

RANDOM_ATTENTION_RULES = ("hf", "google", "fixed")
ATTENTION_TYPES = ("block_sparse", "original_full")

MAX_INT32 = 2**31 - 1
MAX_LABELS = 2**20

MAX_VALUES = {
    # Token ids, token types and lengths are int32.
    "vocab_size": MAX_INT32,
    "type_vocab_size": MAX_INT32,
    # Larger arrays do not fit in any memory.
    "hidden_size": 2**20,
    "intermediate_size": 2**24,
    "num_hidden_layers": 1024,
    # Patterns and kernels are built from these. Beyond the limits, lists of blocks fill the memory
    # or take hours to draw.
    "block_size": MAX_BLOCK_SIZE,
    "num_attention_heads": 2**16,
    "num_random_blocks": 1024,
    "num_window_blocks": 1023,
    "num_leading_global_blocks": 1024,
    "num_trailing_global_blocks": 1024,
    "max_user_global_blocks": MAX_BLOCKS,
    "max_chosen_global_blocks": MAX_BLOCKS,
    "max_position_embeddings": 2**20,
}
"""The largest values of the keys of a configuration that are sizes.

`flax_bigbird.models.config_rules` checks them, and the types of all keys, for models and files;
`SparsityConfig.from_hf` for configurations that it gets from elsewhere.
"""

CLASSIFIER_POOLINGS = ("cls", "mean")


@dataclasses.dataclass(frozen=True)
class SparsityConfig:
    """What each row of queries reads, and which implementation computes it.

    Attributes:
      attention_type: "block_sparse", or "original_full" for full attention at any length.
      block_size: W, in tokens.
      num_heads: N.
      num_random_blocks: R, the random blocks per row.
      causal: Whether the model is a decoder.
      max_position_embeddings: The number of position embeddings. HF-Torch cuts its training
        pattern from one of this length.
      random_attention: The rule of the random blocks. "hf" does as `transformers` does: random
        blocks in training, block 0 in their place in evaluation. "google" uses the random blocks
        of the authors' code in both. "fixed" uses one well-spread pattern in both.
      random_attention_seed: The seed of "fixed".
      padding_invariant: Whether the pattern of an example depends on its own length only, and not
        on how far it is padded.
      num_window_blocks: The number of window blocks of a row, which is odd: the row's own block and
        the same number of blocks on either side.
      num_leading_global_blocks: Global blocks at the start.
      num_trailing_global_blocks: Global blocks at the end; a decoder has none.
      max_user_global_blocks: The largest number of blocks per example that a
        `global_attention_mask` may mark. Older checkpoints call this key
        `max_chosen_global_blocks`.
      short_decoder_attention: How a sparse decoder attends in calls, and with caches, of at most
        (5 + 2R) W tokens: "block_sparse" as in longer ones, or "original_full" as HF-Torch does.
      implementation: Which attention implementation a model uses, or None for the fastest that
        accepts a call. A configuration names it as `attention_implementation`, which is never
        saved in `config.json`.
    """

    # The keys of `config.json` that this package adds, with the former name of one of them.
    KEYS: ClassVar[tuple[str, ...]] = (
        "random_attention",
        "random_attention_seed",
        "padding_invariant",
        "short_decoder_attention",
        "num_window_blocks",
        "num_leading_global_blocks",
        "num_trailing_global_blocks",
        "max_user_global_blocks",
        "max_chosen_global_blocks",
    )
    # The key that names the implementation. It is not saved, as it depends on the machine.
    IMPLEMENTATION_KEY: ClassVar[str] = "attention_implementation"

    attention_type: Literal["block_sparse", "original_full"]
    block_size: int
    num_heads: int
    num_random_blocks: int
    causal: bool
    max_position_embeddings: int
    random_attention: Literal["hf", "google", "fixed"] = "hf"
    random_attention_seed: int = 0
    padding_invariant: bool = False
    num_window_blocks: int = 3
    num_leading_global_blocks: int = 1
    num_trailing_global_blocks: int = 1
    max_user_global_blocks: int = 8
    short_decoder_attention: Literal["block_sparse", "original_full"] = "block_sparse"
    implementation: str | None = None

    @classmethod
    def from_hf(cls, config: Any, *, implementation: str | None = None) -> "SparsityConfig":
        """Creates it from a `transformers.BigBirdConfig`; absent or None keys get the defaults.

        Args:
          config: The configuration.
          implementation: As in the class. The default is `config.attention_implementation`.

        Raises:
          ValueError: If one of `KEYS`, or the name of the implementation, has an invalid value, or
            if a size exceeds `MAX_VALUES`.
        """
        for key, limit in MAX_VALUES.items():
            value = getattr(config, key, None)
            if isinstance(value, int) and value > limit:
                raise ValueError(
                    f"config.{key} must be at most {limit:,}; got {value}: correct the value in "
                    "the configuration"
                )
        if implementation is None:
            implementation = getattr(config, cls.IMPLEMENTATION_KEY, None)
        names = {*BLOCK_SPARSE_IMPLEMENTATIONS, *FULL_IMPLEMENTATIONS}
        if implementation is not None and implementation not in names:
            raise ValueError(
                f"implementation must be one of {sorted(names)} or None; got {implementation!r}"
            )
        sparsity = cls(
            attention_type=config.attention_type,
            block_size=config.block_size,
            num_heads=config.num_attention_heads,
            num_random_blocks=config.num_random_blocks,
            causal=bool(config.is_decoder),
            max_position_embeddings=config.max_position_embeddings,
            random_attention=_random_attention(config),
            random_attention_seed=_seed(config),
            padding_invariant=_padding_invariant(config),
            num_window_blocks=_window(config),
            num_leading_global_blocks=_block_count(config, "num_leading_global_blocks", 1),
            num_trailing_global_blocks=_block_count(config, "num_trailing_global_blocks", 1),
            max_user_global_blocks=_max_user_global_blocks(config),
            short_decoder_attention=_short_decoder_attention(config),
            implementation=implementation,
        )
        google = sparsity.random_attention == "google" and sparsity.num_random_blocks
        if google and sparsity.layout != Layout():
            raise ValueError(
                "config.random_attention='google' is defined for 3 window blocks and one global "
                f"block at each end; got {sparsity.layout}: use 'fixed'"
            )
        return sparsity

    @property
    def layout(self) -> Layout:
        """How many blocks are global and how wide the window is."""
        return Layout(
            self.num_window_blocks // 2,
            self.num_leading_global_blocks,
            self.num_trailing_global_blocks,
        )

    @property
    def max_full_attention_blocks(self) -> int:
        """The number of blocks up to which an encoder attends in full: 5 + 2R by default.

        With `short_decoder_attention="original_full"`, a decoder does so, too. These are the global
        blocks, the window and twice the random blocks.
        """
        return self.layout.row_width + 2 * self.num_random_blocks

    @property
    def max_packed_blocks(self) -> int | None:
        """The maximum number of blocks of an example that is packed with others; None for any.

        An example of an encoder must be short enough for full attention. A longer one needs a row
        of its own, for its global rows. A decoder that attends to short examples in full has the
        same limit, because a row would otherwise mix both kinds of attention.
        """
        if self.attention_type == "original_full" or not self.has_full_short_calls:
            return None
        return self.max_full_attention_blocks

    @property
    def max_full_attention_tokens(self) -> int:
        """The number of tokens up to which all calls attend in full; 0 if none does."""
        if self.attention_type == "original_full":
            return self.max_position_embeddings
        if not self.has_full_short_calls:
            return 0
        tokens = self.max_full_attention_blocks * self.block_size
        return min(tokens, self.max_position_embeddings)

    @property
    def has_full_short_calls(self) -> bool:
        """Whether calls of at most `max_full_attention_blocks` blocks attend in full."""
        return not self.causal or self.short_decoder_attention == "original_full"

    def uses_full_attention(self, length: Dimension) -> bool:
        """Returns whether a call of `length` tokens, or with so many cache slots, attends in full.

        It is decided for each call, from the shape alone. An encoder attends in full up to
        (5 + 2R) W tokens, where HF-Torch switches permanently (transformers issue 20031). A decoder
        follows `attention_type`, so that a text has the same logits whether or not more text
        follows it; with `short_decoder_attention="original_full"` it does as an encoder.
        """
        if self.attention_type == "original_full":
            return True
        if not self.has_full_short_calls:
            return False
        return length <= self.max_full_attention_blocks * self.block_size

    @property
    def block_sparse_implementation(self) -> str | None:
        """`implementation` for `block_sparse_attention`; None if it names one of full attention."""
        return self.implementation if self.implementation in BLOCK_SPARSE_IMPLEMENTATIONS else None

    @property
    def full_implementation(self) -> str | None:
        """`implementation` for `full_attention`.

        "reference" becomes "xla", which is plain JAX, too. A backend that has no full attention
        becomes None.
        """
        if self.implementation == "reference":
            return "xla"
        return self.implementation if self.implementation in FULL_IMPLEMENTATIONS else None


def classifier_pooling(config: Any) -> str:
    """Returns what a sequence classifier reads of the last hidden states.

    "cls", the default, is the first token, as in `transformers`. "mean" is the mean over the tokens
    that are not padding.

    Raises:
      ValueError: If `config.classifier_pooling` is another value.
    """
    pooling = getattr(config, "classifier_pooling", None) or "cls"
    if pooling not in CLASSIFIER_POOLINGS:
        raise ValueError(
            f"config.classifier_pooling must be one of {CLASSIFIER_POOLINGS}; got {pooling!r}"
        )
    return pooling


def _random_attention(config: Any) -> Any:
    rule = getattr(config, "random_attention", None) or "hf"
    if rule not in RANDOM_ATTENTION_RULES:
        raise ValueError(
            f"config.random_attention must be one of {RANDOM_ATTENTION_RULES}; got {rule!r}"
        )
    return rule


def _seed(config: Any) -> int:
    seed = getattr(config, "random_attention_seed", None)
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**63):
        raise ValueError(
            f"config.random_attention_seed must be an integer in 0..2**63-1; got {seed!r}"
        )
    return seed or 0


def _padding_invariant(config: Any) -> bool:
    value = getattr(config, "padding_invariant", None)
    if value not in (None, False, True):
        raise ValueError(f"config.padding_invariant must be True or False; got {value!r}")
    return bool(value)


def _short_decoder_attention(config: Any) -> Any:
    value = getattr(config, "short_decoder_attention", None)
    if value is None:
        return "block_sparse"
    if value not in ATTENTION_TYPES:
        raise ValueError(
            f"config.short_decoder_attention must be one of {ATTENTION_TYPES}; got {value!r}"
        )
    if value == "original_full" and config.is_decoder and _padding_invariant(config):
        raise ValueError(
            "config.short_decoder_attention='original_full' makes the attention of an example "
            "depend on how far it is padded; got it with padding_invariant=True, which the "
            "`bigbird` commands always set: leave one of them out, or set "
            "attention_type='original_full', which attends in full at any length"
        )
    return value


def _block_count(config: Any, key: str, default: int) -> int:
    """Returns a number of blocks, 0 or more."""
    value = getattr(config, key, None)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"config.{key} must be an integer, 0 or more; got {value!r}")
    return value


def _window(config: Any) -> int:
    window = _block_count(config, "num_window_blocks", 3)
    if window % 2 == 0:
        raise ValueError(
            "config.num_window_blocks must be odd (a row's own block and the same number on "
            f"either side); got {window}: use {window + 1}"
        )
    return window


def _max_user_global_blocks(config: Any) -> int:
    for key in ("max_user_global_blocks", "max_chosen_global_blocks"):
        value = getattr(config, key, None)
        if value is None:
            continue
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"config.{key} must be an integer, 1 or more; got {value!r}")
        return value
    return 8


OWN_KEYS = (*SparsityConfig.KEYS, "classifier_pooling", "label_thresholds")
"""The keys that this package adds to `config.json`."""
