"""The directory in which the answers of an unfinished prediction are collected."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from flax_bigbird.checkpoint import (
    LOCK_FILE,
    DirectoryInUseError,
    atomic_write_text,
    lock_directory,
)
from flax_bigbird.data.errors import OptionError

SUFFIX = ".part"  # of the name of the directory


class PredictionError(RuntimeError):
    """Raised when a prediction cannot continue; the message states the problem and the remedy."""


@dataclasses.dataclass(frozen=True)
class PartialOutput:
    """The directory `OUTPUT.part` of an unfinished prediction.

    It holds the answers so far (`rows.jsonl`), how many of them are complete (`done.json`), and
    everything that they depend on (`job.json`).
    """

    directory: Path

    @classmethod
    def of(cls, output: Path) -> "PartialOutput":
        """Returns the partial output that belongs to an output file."""
        return cls(output.with_name(output.name + SUFFIX))

    @property
    def lines(self) -> Path:
        return self.directory / "rows.jsonl"

    @property
    def job(self) -> Path:
        return self.directory / "job.json"

    @property
    def done(self) -> Path:
        return self.directory / "done.json"

    def clear(self) -> None:
        """Removes everything in the directory but its lock, which the caller holds."""
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK_FILE:
                path.unlink()

    @contextlib.contextmanager
    def lock(self, target: Path) -> Iterator[None]:
        """Keeps other predictions out of the directory inside the `with` block.

        Args:
          target: The output, for messages.

        Raises:
          OptionError: if another process writes to the directory.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock_directory(self.directory))
            except DirectoryInUseError as error:
                raise OptionError(
                    f"must not be in use by another prediction; {target} is written by "
                    f"{error.holder}: wait until it ends, stop it, or choose another output",
                    option="output",
                ) from error
            yield

    @contextlib.contextmanager
    def explain_missing(self, names: Iterable[str]) -> Iterator[None]:
        """Re-raises the error that follows if somebody else removes the directory.

        Args:
          names: The files that hold the answers.

        Raises:
          PredictionError: in the place of that error.
        """
        try:
            yield
        except FileNotFoundError as error:
            if all((self.directory / name).exists() for name in names):
                raise
            raise PredictionError(
                f"the answers so far must stay in {self.directory} until all of them are written; "
                "it was removed in the meantime, and they are lost: run the same command again, "
                "which starts over"
            ) from error

    def start_or_resume(
        self, job: dict[str, Any], overwrite: bool, sizes: Mapping[str, str]
    ) -> dict[str, int]:
        """Prepares the directory, whose lock the caller holds.

        Args:
          job: Everything that the answers depend on.
          overwrite: Whether to discard earlier answers.
          sizes: For each file of answers, the name of its size in `done.json`.

        Returns:
          The content of `done.json`: how many rows are done, and the sizes of the files in bytes.

        Raises:
          OptionError: if the directory is that of another job.
        """
        job = json.loads(json.dumps(job, default=str))
        if overwrite:
            self.clear()
        previous_job = _load_json(self.job)
        if previous_job is not None and previous_job != job:
            different = [name for name in job if previous_job.get(name) != job[name]]
            raise OptionError(
                "a prediction can only be resumed with what it was started with; "
                f"{self.directory} has other {', '.join(different)}: use the same, choose another "
                "output, or set overwrite"
            )
        if previous_job is None:
            self.clear()
            atomic_write_text(self.job, json.dumps(job))
        done = _load_json(self.done)
        if done is None:
            return {"rows": 0} | dict.fromkeys(sizes.values(), 0)
        if not isinstance(done.get("rows"), int) or not all(
            isinstance(done.get(size), int)
            and (self.directory / name).exists()
            and (self.directory / name).stat().st_size >= done[size]
            for name, size in sizes.items()
        ):
            raise OptionError(
                f"a prediction can only be resumed if its answers so far are there; those in "
                f"{self.directory} are incomplete: set overwrite to start over"
            )
        return done

    @contextlib.contextmanager
    def open_at(self, sizes: Mapping[str, int]) -> Iterator[dict[str, BinaryIO]]:
        """Opens the files of answers and cuts each of them to its size.

        A chunk that was interrupted while it was being written is thus written again.
        """
        with contextlib.ExitStack() as stack:
            streams: dict[str, BinaryIO] = {}
            for name, size in sizes.items():
                path = self.directory / name
                stream: BinaryIO = stack.enter_context(path.open("r+b" if path.exists() else "wb"))
                stream.truncate(size)
                stream.seek(size)
                streams[name] = stream
            yield streams

    def save_progress(
        self, streams: Mapping[str, BinaryIO], rows_done: int, sizes: Mapping[str, str]
    ) -> None:
        """Flushes the answers to disk, and writes then how many of them there are."""
        done = {"rows": rows_done}
        for name, stream in streams.items():
            stream.flush()
            os.fsync(stream.fileno())
            done[sizes[name]] = stream.tell()
        atomic_write_text(self.done, json.dumps(done))

    def publish(self, finished: Path, target: Path) -> None:
        """Moves the finished file to the output, and removes the directory."""
        done = _load_json(self.done) or {"rows": 0}
        atomic_write_text(self.done, json.dumps(done | {"published": True}))
        os.replace(finished, target)
        shutil.rmtree(self.directory)

    def remove_published(self) -> None:
        """Removes the directory if its process was killed after it had written the output."""
        with contextlib.suppress(OptionError, DirectoryInUseError):
            if (_load_json(self.done) or {}).get("published"):
                with lock_directory(self.directory):
                    shutil.rmtree(self.directory)


def _load_json(path: Path) -> dict[str, Any] | None:
    """Returns the content of a file of a partial output, or None if it does not exist."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise OptionError(
            f"a prediction can only be resumed if its files are intact; {path} is damaged: set "
            "overwrite to start over"
        )
    return content
