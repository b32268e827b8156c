"""The model of an index: loaded for its documents, and compared with that of an index."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax_bigbird._version import __version__
from flax_bigbird.data.errors import OptionError
from flax_bigbird.inference.embedder import Embedder
from flax_bigbird.inference.embedder_loading import load_embedder
from flax_bigbird.inference.predictor import MAX_ROWS_PER_CHUNK
from flax_bigbird.inference.resolve import resolve_name
from flax_bigbird.inference.search.fingerprint import model_fingerprint
from flax_bigbird.inference.search.manifest import DATA_PREFIX, METRICS, Manifest
from flax_bigbird.inference.search.options import DEFAULT_CHUNKS, VECTOR_OPTIONS
from flax_bigbird.pretrained import DEFAULT_MODEL


def load_document_embedder(given: Mapping[str, Any], previous: Manifest | None) -> Embedder:
    """Returns the embedder of the documents of an index.

    Args:
      given: The options that are given, with `model` among them if it is.
      previous: The manifest of the index that exists, whose options are taken if others are not
        given; None for a new index.

    Raises:
      OptionError: if the model cannot be loaded, or an option cannot be used.
    """
    given = dict(given)
    saved = previous.options if previous else {}
    name = given.pop("model", previous.model if previous else DEFAULT_MODEL)
    options = {key: value for key, value in saved.items() if value is not None} | given
    if given.get("chunk_sentences"):
        options.pop("chunk_tokens", None)
    elif not options.get("chunk_tokens") and not options.get("chunk_sentences"):
        options = DEFAULT_CHUNKS | options
    if given.get("prompt") is not None:
        options.pop("prompt_name", None)
    embedder = load_embedder(name, **options)
    role = embedder.task.modules.document_prompt_name
    if role is None or {"prompt", "prompt_name"} & options.keys():
        return embedder
    task = embedder.task.with_options(prompt_name=role)
    return Embedder(embedder.predictor.with_task(task, MAX_ROWS_PER_CHUNK))


def new_manifest(
    embedder: Embedder, model: str | Path, query_prompt: str | None, folder: Path
) -> Manifest:
    """Returns the manifest of an index without files.

    Args:
      embedder: The embedder of documents.
      model: The model, as it was given.
      query_prompt: The text to put before each query.
      folder: The folder to index.

    Raises:
      OptionError: if an index cannot have the similarity of the model.
    """
    metric = embedder.similarity_fn_name
    if metric not in METRICS:
        raise OptionError(
            f"an index must have one of the similarities {', '.join(METRICS)}; the model's "
            f"folder has {metric!r}: change similarity_fn_name in it"
        )
    name = resolve_name(model)
    return Manifest(
        library_version=__version__,
        model=str(Path(name).resolve()) if Path(name).is_dir() else name,
        fingerprint=model_fingerprint(embedder),
        options={name: getattr(embedder.task.options, name) for name in VECTOR_OPTIONS},
        query_prompt=query_prompt,
        dimension=embedder.task.dimension,
        metric=metric,  # type: ignore[arg-type]
        has_words=True,
        folder=str(folder.resolve()),
        data=f"{DATA_PREFIX}0",
        scan_time_ns=0,
        num_files=0,
        num_chunks=0,
        next_key=0,
    )


def check_same_model(manifest: Manifest, previous: Manifest, index: Path) -> None:
    """Checks that vectors can be added to an index.

    Args:
      manifest: The manifest with the model and the options that are given.
      previous: The manifest of the index.
      index: The index, for messages.

    Raises:
      OptionError: if it is that of another model or of other options.
    """
    if previous.fingerprint != manifest.fingerprint:
        raise OptionError(
            f"an index must be updated with the model that it was built with; {index} was built "
            f"with {previous.model} as it was then, and {manifest.model}, or its tokenizer, has "
            "other parameters: give that model, or build the index again with overwrite"
        )
    now, then = dict(manifest.options), dict(previous.options)
    if manifest.query_prompt is not None:
        now["query_prompt"], then["query_prompt"] = manifest.query_prompt, previous.query_prompt
    if different := [name for name in now if now[name] != then.get(name)]:
        raise OptionError(
            f"an index must be updated with the options that it was built with; {index} has other "
            f"{', '.join(different)}: leave them out, or build the index again with overwrite"
        )
