"""The attention of an encoder over one document, as the viewer of the server shows it."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.readers.lines import read_text
from flax_bigbird.inference.attention_lists import Layout, block_lists, token_lists
from flax_bigbird.inference.attention_options import MAX_TOKENS, AttentionArguments
from flax_bigbird.inference.embedder_loading import load_embedder
from flax_bigbird.inference.token_lists import Token, token_windows
from flax_bigbird.models.attention_maps import attention_of_token, sparse_block_map

MAX_LINKS = 1024  # of a token, in a layer and head


@dataclasses.dataclass(frozen=True)
class DocumentAttention:
    """The attention over one window of a document, as JSON values.

    Attributes:
      text: The document.
      map: The map between blocks, as `/attention` of the server returns it.
      links: For each selected token, layer and head (None for the mean of all heads), its position,
        what it reads and what reads it.
      layer: The layer to show first.
      head: The head to show first; None for the mean of all heads.
      positions: The positions of the selected tokens.
    """

    text: str
    map: dict[str, Any]
    links: list[dict[str, Any]]
    layer: int
    head: int | None
    positions: list[int]


def read_document(path: str | Path) -> str:
    """Returns the text of a file.

    Raises:
      DataError: if there is no such file, or if it is not UTF-8 or empty.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"the document must be a text file that exists; got {path}: check its name")
    (row,) = read_text(path)
    if not row["text"].strip():
        raise DataError(f"the document must have text; {path} has none: choose another file")
    return row["text"]


def document_attention(model: str, text: str, arguments: AttentionArguments) -> DocumentAttention:
    """Computes the attention of an encoder over a document.

    The window is padded as `bigbird predict` pads it, because the pattern may depend on that.

    Args:
      model: A directory, a shipped name or a Hub id.
      text: The document.
      arguments: What to show.

    Raises:
      OptionError: if the model cannot be loaded or is a decoder, or if an option is not allowed.
    """
    options: dict[str, Any] = {"dtype": arguments.dtype}
    if arguments.max_length is not None:
        options["max_length"] = arguments.max_length
    predictor = load_embedder(model, devices=jax.local_devices()[:1], **options).predictor
    encoder, task = predictor.model, predictor.task
    if encoder.sparsity.causal:
        raise OptionError(
            f"must be an encoder; {model} is a decoder: name an encoder, or use "
            "output_attentions in Python",
            option="model",
        )
    config = encoder.config
    windows, _ = token_windows(task.tokenizer, text, arguments.query, task.options.length)
    positions = _check(arguments, windows, text, config)
    tokens = windows[arguments.window]
    arrays = task.pad([t["id"] for t in tokens], task.options.bucket_length(len(tokens)))
    computed = _Computed(encoder, arrays, len(tokens))
    content = {
        "num_tokens": len(tokens),
        "num_windows": len(windows),
        "window": arguments.window,
        "block_size": computed.layout.size,
        "num_blocks": computed.layout.num_blocks,
        "tokens": tokens,
        "layers": computed.blocks(),
    }
    links = [link for position in positions for link in computed.links(position)]
    layer = config.num_hidden_layers - 1 if arguments.layer is None else arguments.layer
    return DocumentAttention(text, content, links, layer, arguments.head, positions)


class _Computed:
    """Computes the attention over one window.

    Args:
      encoder: The model.
      arrays: The padded `input_ids` and `attention_mask`, `[T]` each.
      num_tokens: The number of tokens that are no padding.
    """

    def __init__(self, encoder: Any, arrays: dict[str, np.ndarray], num_tokens: int):
        self._params, self._num_tokens = encoder.params, num_tokens
        self._inputs = [jnp.asarray(arrays[name])[None] for name in ("input_ids", "attention_mask")]
        self._map = jax.jit(functools.partial(sparse_block_map, encoder))
        self._of_token = jax.jit(functools.partial(attention_of_token, encoder))
        self._layers = range(encoder.config.num_hidden_layers)
        self._heads = range(encoder.config.num_attention_heads)
        padded_length = len(arrays["input_ids"])
        self.layout = Layout(encoder.sparsity, self._num_tokens, padded_length)

    def blocks(self) -> list[dict[str, Any]]:
        """Returns what the blocks of all layers and heads read."""
        weights = jax.device_get(self._map(self._params, *self._inputs))
        return block_lists(weights, self.layout, self._layers, self._heads)

    def links(self, position: int) -> list[dict[str, Any]]:
        """Returns what a token reads, and what reads it, by layer and head, and in the mean."""
        values = self._of_token(self._params, *self._inputs, jnp.asarray(position, jnp.int32))
        reads, read_by = jax.device_get(values)
        outputs = {"reads": reads, "read_by": read_by}
        links = []
        for heads in (None, self._heads):
            layers = token_lists(
                outputs, self.layout, position, self._num_tokens, self._layers, heads, MAX_LINKS
            )
            links += [
                {"position": position, "layer": layer["layer"]} | head
                for layer in layers
                for head in layer["heads"]
            ]
        return links


def _check(
    arguments: AttentionArguments, windows: list[list[Token]], text: str, config: Any
) -> list[int]:
    """Returns the positions of the selected tokens.

    Raises:
      OptionError: if an index is too large, or if a word does not occur in the window.
    """
    for name, size in (
        ("window", len(windows)),
        ("layer", config.num_hidden_layers),
        ("head", config.num_attention_heads),
    ):
        value = getattr(arguments, name)
        if value is not None and value >= size:
            raise OptionError(
                f"must lie in 0..{size - 1}; got {value}: choose another one", option=name
            )
    if len(arguments.token) > MAX_TOKENS:
        raise OptionError(
            f"token may be given at most {MAX_TOKENS} times; got {len(arguments.token)}: leave out "
            "some"
        )
    window = windows[arguments.window]
    return [_find_token(given, window, text) for given in arguments.token]


def _find_token(given: str, tokens: list[Token], text: str) -> int:
    """Returns the position of a token in a window, from its position or from a word."""
    last = len(tokens) - 1
    if given.isdecimal():
        if int(given) > last:
            raise OptionError(
                f"must lie in 0..{last}; got {given}: choose another one", option="token"
            )
        return int(given)
    own: list[Any] = [token for token in tokens if token["start"] is not None]
    begin, end = (own[0]["start"], own[-1]["stop"]) if own else (0, 0)
    start = text.find(given, begin, end) if given else -1
    for position, token in enumerate(tokens):
        first, after = token["start"], token["stop"]
        if start >= 0 and first is not None and first < start + len(given) and start < after:
            return position
    raise OptionError(
        f"must be a position or a word of the window; {given!r} does not occur in its "
        f"characters, {begin:,} to {end:,}: check the spelling, or choose another window",
        option="token",
    )
