"""Says which parameters of a new run come from a checkpoint, and which do not."""

from flax_bigbird.checkpoint import CheckpointWarning


def summarize_differences(caught: list[CheckpointWarning], base_model_prefix: str) -> list[str]:
    """Returns what a user must know of the warnings about a checkpoint, in a sentence or two.

    A new head is what fine-tuning is for, so it is named in one line; the names of all parameters
    are left to `from_pretrained`.

    Args:
      caught: The warnings.
      base_model_prefix: The name of the encoder, below which there is no head.
    """
    new = [path for warning in caught for path in warning.new_parameters]
    unread = [path for warning in caught for path in warning.unread_parameters]
    others = [str(w) for w in caught if not (w.new_parameters or w.unread_parameters)]
    if not new and not unread:
        return others
    heads, parts = _module_names(new, base_model_prefix)
    if heads:  # the pooler, which belongs to the heads of pretraining, is no news then
        parts = [part for part in parts if part != "pooler"]
    unread_heads, unread_parts = _module_names(unread, base_model_prefix)
    clauses = []
    if heads:
        verbs = "heads {} are new" if len(heads) > 1 else "head {} is new"
        clauses.append(f"the {verbs.format(' and '.join(heads))}")
    if parts:
        clauses.append(f"parts of the encoder start from random parameters: {', '.join(parts)}")
    if unread_heads or unread_parts:
        names = [*unread_heads, *unread_parts]
        verb = "is" if len(names) == 1 else "are"
        clauses.append(f"{', '.join(names)} of the checkpoint {verb} not used")
    sentence = "; ".join(clauses)
    return [f"{sentence[0].upper()}{sentence[1:]}.", *others]


def _module_names(
    paths: list[tuple[str, ...]], base_model_prefix: str
) -> tuple[list[str], list[str]]:
    """Returns the names of heads, and those of the parts of the encoder, that hold parameters."""
    heads = {path[0] for path in paths if path[0] != base_model_prefix}
    parts = {"/".join(path[1:-1][:3]) for path in paths if path[0] == base_model_prefix}
    return sorted(heads), sorted(parts)
