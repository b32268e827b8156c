"""Draws the attention over a document with Matplotlib, of the extra `train`."""

import io
from typing import Any

import numpy as np

from flax_bigbird._messages import pluralize
from flax_bigbird.inference.attention_lists import FULL, GLOBAL, RANDOM, WINDOW
from flax_bigbird.inference.document_attention import DocumentAttention

COLORS = {WINDOW: "#1f6fd1", GLOBAL: "#b35900", RANDOM: "#1a7f37", FULL: "#6a3fb5"}
NAMES = {WINDOW: "window", GLOBAL: "global", RANDOM: "random", FULL: "full"}
MARKERS = {GLOBAL: "_", RANDOM: "o"}
MAX_DRAWN_SHAPES = 96  # blocks in a row, up to which kinds differ in shape
MIN_ALPHA = 0.12


def attention_png(attention: DocumentAttention) -> bytes:
    """Returns a PNG with the map of blocks, and below it, the links of each selected token."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tokens = attention.positions
    ratios = [6.0, *[1.5] * len(tokens)]
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(7.5, sum(ratios) + 1), dpi=144, layout="constrained")
        axes = np.atleast_1d(figure.subplots(len(ratios), 1, height_ratios=ratios))
        _draw_blocks(axes[0], attention)
        for axis, token in zip(axes[1:], tokens, strict=True):
            _draw_links(axis, attention, token)
        stream = io.BytesIO()
        FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def block_table(attention: DocumentAttention) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights of the shown layer and head, and the kinds of its blocks, `[M, M]` each.

    The weights are NaN, and the kinds empty, where a block is not read.
    """
    size = attention.map["num_blocks"]
    heads = attention.map["layers"][attention.layer]["heads"]
    shown = heads if attention.head is None else [heads[attention.head]]
    weights, kinds = np.zeros((size, size)), np.full((size, size), "")
    for head in shown:
        for query, row in enumerate(head["rows"]):
            weights[query, row["blocks"]] += np.array(row["weights"]) / len(shown)
            kinds[query, row["blocks"]] = list(row["kinds"])
    return np.where(kinds == "", np.nan, weights), kinds


def _draw_blocks(axis: Any, attention: DocumentAttention) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    weights, kinds = block_table(attention)
    relative = np.sqrt(weights / max(np.nanmax(weights), 1e-9))
    alpha = np.where(kinds == "", 0, MIN_ALPHA + (1 - MIN_ALPHA) * relative)
    image, legend = np.ones((*weights.shape, 4)), []
    has_shapes = len(weights) <= MAX_DRAWN_SHAPES
    for kind, color in COLORS.items():
        image[kinds == kind, :3] = to_rgb(color)
        if not (kinds == kind).any():
            continue
        hatch = 2 * {"_": "-", "o": "o"}.get(MARKERS.get(kind, ""), "") if has_shapes else ""
        legend.append(Patch(facecolor=color, edgecolor="white", hatch=hatch, label=NAMES[kind]))
        if hatch:
            _draw_shapes(axis, kinds == kind, MARKERS[kind])
    image[..., 3] = alpha
    axis.imshow(image, interpolation="nearest")
    head = "mean of all heads" if attention.head is None else f"head {attention.head}"
    blocks = attention.map
    axis.set_title(
        f"Layer {attention.layer}, {head}: {pluralize(blocks['num_tokens'], 'token')} in "
        f"{pluralize(blocks['num_blocks'], 'block')} of {blocks['block_size']}"
    )
    axis.set_xlabel("block that is read")
    axis.set_ylabel("block that reads")
    axis.legend(handles=legend, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def _draw_shapes(axis: Any, cells: np.ndarray, marker: str) -> None:
    rows, columns = np.nonzero(cells)
    size = (200 / len(cells)) ** 2 / 4
    axis.scatter(columns, rows, s=size, marker=marker, c="white", linewidths=0.6)


def _draw_links(axis: Any, attention: DocumentAttention, token: int) -> None:
    text = attention.map["tokens"][token]["text"].strip()
    shown = (token, attention.layer, attention.head)
    found = next(x for x in attention.links if (x["position"], x["layer"], x["head"]) == shown)
    for name, label, sign, color in (
        ("reads", "it reads", 1, COLORS[WINDOW]),
        ("read_by", "reads it", -1, COLORS[GLOBAL]),
    ):
        links = found[name]
        axis.vlines(
            links["positions"], 0, sign * np.array(links["weights"]), color=color, label=label
        )
    axis.axhline(0, color="black", linewidth=0.5)
    axis.axvline(token, color="black", linewidth=0.5, linestyle=":")
    axis.set_xlim(-1, attention.map["num_tokens"])
    axis.set_title(f"token {token}: {text!r}", parse_math=False)
    axis.set_xlabel("position")
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
