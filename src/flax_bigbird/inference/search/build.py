"""Builds the index of a folder, and updates it when files are changed, added or removed."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax_bigbird._version import __version__
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.files import check_output_directory
from flax_bigbird.inference.embedder import Embedder
from flax_bigbird.inference.jobs import JobEvents
from flax_bigbird.inference.partial_output import PartialOutput
from flax_bigbird.inference.search.document_model import (
    check_same_model,
    load_document_embedder,
    new_manifest,
)
from flax_bigbird.inference.search.documents import ContentFile, NewDocuments, content_of
from flax_bigbird.inference.search.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    data_directory,
    holds_only_own_files,
    load_manifest,
    new_data_name,
    remove_other_data,
)
from flax_bigbird.inference.search.options import check_options, check_packages
from flax_bigbird.inference.search.publish import write_data
from flax_bigbird.inference.search.scan import (
    SUFFIXES,
    Scan,
    Skipped,
    reason_of,
    scan_folder,
)
from flax_bigbird.inference.search.store import read_file_table
from flax_bigbird.inference.search.summary import IndexSummary, summarize
from flax_bigbird.pretrained import DEFAULT_MODEL

# A file that was modified this shortly before it was scanned may have been modified again since
# with the same time, because file systems count in steps.
_MTIME_STEP_NS = 2 * 10**9


def build_index(
    folder: str | Path,
    output: str | Path,
    *,
    model: str | Path | None = None,
    query_prompt: str | None = None,
    words: bool | None = None,
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda files_done, num_files: None,
    on_progress: Callable[[int], None] = lambda files_done: None,
    on_message: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> IndexSummary:
    """Indexes the texts of a folder, or updates their index.

    Each document is read once, as a whole, and every chunk of it gets a vector (late chunking). An
    index that exists is updated: only files whose content is new are read by the model. Until
    the new index is complete, the old one stays as it is. If the work is interrupted, the same call
    resumes it.

    Args:
      folder: The folder with text files, Markdown files, and tables with a column of texts.
      output: The directory of the index.
      model: The model, see `load_embedder`. By default, it is that of the index, or else the
        shipped one.
      query_prompt: The text to put before each query. By default, it is the prompt named "query"
        of the model's folder, if there is one.
      words: Whether the index can be searched by words, too; by default True.
      overwrite: Whether to build an index that exists again, from the start.
      on_start: Called with the number of files that are already embedded, and of all that must be.
      on_progress: Called after each chunk of documents with the number of files that are embedded.
      on_message: Called at the end with a warning if too many tokens were unknown.
      should_stop: Called after each chunk; the work stops if it returns True.
      options: The options of `load_embedder`, such as `chunk_tokens` (256 by default, of which 32
        in common), `chunk_sentences`, `prompt` or `text_column`.

    Returns:
      What was done.

    Raises:
      OptionError: if an option, the model, or the output cannot be used, or the index is that of
        another model, other options, or another folder.
      DataError: if the folder holds nothing to index.
      PredictionInterrupted: if `should_stop` returned True before the end.
    """
    check_packages()
    source, index = Path(folder).expanduser(), Path(output).expanduser().absolute()
    check_options(options)
    given = dict(options) if model is None else {"model": model, **options}
    previous = _load_previous(source, index, overwrite)
    partial = PartialOutput.of(index)
    scan_time = time.time_ns()
    scan = scan_folder(source, (index, partial.directory))
    if not scan.files:
        raise DataError(
            f"a folder to index must hold files of the formats {', '.join(SUFFIXES)}; {source} has "
            f"none{_reasons(scan.skipped)}: check the path"
        )
    job = _Job(source, index, partial, previous, given, query_prompt, words)
    with partial.lock(index):
        if previous != _load_previous(source, index, overwrite):
            raise OptionError(
                f"an index must not change while it is updated; another process has just written "
                f"{index}: give the same command again"
            )
        events = JobEvents(on_start, on_progress, on_message, should_stop)
        return job.run(scan, scan_time, overwrite, events)


class _Job:
    """An update of an index."""

    def __init__(
        self,
        folder: Path,
        index: Path,
        partial: PartialOutput,
        previous: Manifest | None,
        options: Mapping[str, Any],
        query_prompt: str | None,
        words: bool | None,
    ):
        self.folder, self.index, self.partial, self.previous = folder, index, partial, previous
        self.options, self.query_prompt, self.words = dict(options), query_prompt, words
        self.data: Path | None = data_directory(index, previous) if previous else None
        self.old_files = read_file_table(self.data) if self.data else []

    def run(self, scan: Scan, scan_time: int, overwrite: bool, events: JobEvents) -> IndexSummary:
        """Does what `build_index` documents; the caller holds the lock of the partial output."""
        skipped = list(scan.skipped)
        files = self._hash_files(scan, skipped)
        embedder, manifest = None, self.previous
        if manifest is None or self.options or self.query_prompt is not None:
            embedder, manifest = self._load_model()
        if self._is_up_to_date(files):
            events.on_start(0, 0)
            shutil.rmtree(self.partial.directory, ignore_errors=True)
            return summarize(self.index, manifest, self.old_files, files, skipped, scan.num_others)
        new = NewDocuments(self.partial, self.folder)
        old_contents = {file.content for file in self.old_files}
        if missing := _first_of_each(files, old_contents):
            if embedder is None:
                embedder, manifest = self._load_model()
            what = {"format_version": FORMAT_VERSION, "fingerprint": manifest.fingerprint}
            new.embed(embedder, missing, what | manifest.options, overwrite, events)
            if message := embedder.predictor.unknown_tokens_message():
                events.on_message(message)
        skipped += [*new.skipped, *_copies_of_skipped(files, new.skipped)]
        files = [file for file in files if file.content in old_contents | new.complete]
        if not files:
            shutil.rmtree(self.partial.directory, ignore_errors=True)
            raise DataError(
                f"a folder to index must hold texts; none of the files in {self.folder} can be "
                f"read{_reasons(skipped)}: check the path"
            )
        manifest = self._publish(manifest, scan_time, files, new)
        return summarize(self.index, manifest, self.old_files, files, skipped, scan.num_others)

    def _hash_files(self, scan: Scan, skipped: list[Skipped]) -> list[ContentFile]:
        """Returns the files that can be read, with their contents; others are added to `skipped`.

        A file of the same size and time as in the index is not read.
        """
        old = {file.path: file for file in self.old_files}
        trusted_before = self.previous.scan_time_ns - _MTIME_STEP_NS if self.previous else 0
        files = []
        for file in scan.files:
            known = old.get(file.path)
            is_same = known and (known.size, known.mtime_ns) == (file.size, file.mtime_ns)
            if known and is_same and file.mtime_ns < trusted_before:
                files.append(ContentFile(file, known.content))
                continue
            try:
                content = content_of(self.folder / file.path, file.format)
            except OSError as error:
                skipped.append(Skipped(file.path, reason_of(error)))
                continue
            files.append(ContentFile(file, content))
        return files

    def _is_up_to_date(self, files: Sequence[ContentFile]) -> bool:
        """Returns whether the index has exactly these files, as they are now."""
        if self.previous is None or self.words not in (None, self.previous.has_words):
            return False
        old = [(f.path, f.size, f.mtime_ns, f.content) for f in self.old_files]
        return old == [(f.path, f.size, f.mtime_ns, content) for f, content in files]

    def _load_model(self) -> tuple[Embedder, Manifest]:
        """Returns the embedder of documents, and the manifest of the index or of a new one.

        Raises:
          OptionError: if the index that exists is that of another model or of other options.
        """
        embedder = load_document_embedder(self.options, self.previous)
        default = self.previous.model if self.previous else DEFAULT_MODEL
        model = self.options.get("model", default)
        manifest = new_manifest(embedder, model, self.query_prompt, self.folder)
        if self.previous is None:
            return embedder, manifest
        check_same_model(manifest, self.previous, self.index)
        return embedder, self.previous

    def _publish(
        self,
        manifest: Manifest,
        scan_time: int,
        files: Sequence[ContentFile],
        new: NewDocuments,
    ) -> Manifest:
        """Writes the index, and removes what is no longer needed."""
        self.index.mkdir(exist_ok=True)
        changes: dict[str, Any] = {
            "library_version": __version__,
            "folder": str(self.folder.resolve()),
            "data": new_data_name(self.index),
            "scan_time_ns": scan_time,
        }
        if self.words is not None:
            changes["has_words"] = self.words
        manifest = manifest.model_copy(update=changes)
        manifest = write_data(self.index, manifest, self.data, self.old_files, files, new)
        manifest.save(self.index)
        remove_other_data(self.index, manifest.data)
        shutil.rmtree(self.partial.directory, ignore_errors=True)
        return manifest


def _load_previous(folder: Path, index: Path, overwrite: bool) -> Manifest | None:
    """Returns the manifest of the index to update, or None if a new one is built.

    Raises:
      OptionError: if the folder or the output cannot be used.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"a folder to index must be a directory; {folder} {what}: check the path")
    check_output_directory(index)
    if not index.exists() or (index.is_dir() and not any(index.iterdir())):
        return None
    is_ours = index.is_dir() and holds_only_own_files(index)
    if is_ours and (overwrite or not (index / MANIFEST).exists()):
        return None
    manifest = load_manifest(index)
    if overwrite:
        return None
    old_folder = Path(manifest.folder)
    if old_folder != folder.resolve() and old_folder.is_dir():
        raise OptionError(
            f"an index must be updated from the folder that it was built from; {index} is that of "
            f"{old_folder}, got {folder}: choose another output, or build it again with overwrite"
        )
    return manifest


def _first_of_each(files: Sequence[ContentFile], known: set[str]) -> list[ContentFile]:
    """Returns a file for each content that is not known."""
    first: dict[str, ContentFile] = {}
    for file in files:
        if file.content not in known:
            first.setdefault(file.content, file)
    return list(first.values())


def _copies_of_skipped(files: Sequence[ContentFile], skipped: Sequence[Skipped]) -> list[Skipped]:
    """Returns the files with the same content as one that was skipped when it was read."""
    names = {file.path for file in skipped}
    first = {file.content: file.file.path for file in files if file.file.path in names}
    return [
        Skipped(file.path, f"it is the same as {first[content]}, which is skipped")
        for file, content in files
        if content in first and file.path != first[content]
    ]


def _reasons(skipped: Sequence[Skipped]) -> str:
    """Returns the first reason why a file was skipped, for a message."""
    return f" ({skipped[0].path}: {skipped[0].reason})" if skipped else ""
