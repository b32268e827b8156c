"""The options of `bigbird attention`; importing them does not import JAX."""

from flax_bigbird.tasks.options import MODEL, TASK, Options, option

MAX_TOKENS = 16  # whose links are computed; each of them takes a call of the model


class AttentionArguments(Options):
    """What to show of the attention over a document."""

    query: str | None = option(
        None, help="A question or query that is put before the text.", panel=TASK
    )
    window: int = option(
        0,
        help="Which window to show of a document that is longer than the model.",
        panel=TASK,
        ge=0,
    )
    layer: int | None = option(
        None, help="The index of the layer. By default, it is the last one.", panel=TASK, ge=0
    )
    head: int | None = option(
        None,
        help="The index of the head. By default, the mean of all heads is shown.",
        panel=TASK,
        ge=0,
    )
    token: list[str] = option(
        [],
        help="A token of which to show what it reads and what reads it: its position, or a word, "
        f"whose first occurrence is meant. At most {MAX_TOKENS}.",
        panel=TASK,
    )
    max_length: int | None = option(
        None,
        help="The maximum number of tokens of a window. By default, it is the length of the "
        "model's position embeddings, or what the model was trained with.",
        panel=MODEL,
        ge=8,
    )
    dtype: str = option(
        "float32",
        help="The dtype of the computation.",
        panel=MODEL,
        choices=("float32", "bfloat16"),
    )
