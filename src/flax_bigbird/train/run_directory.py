"""The files of a run directory, and the check whether a run may start or resume in it."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax_bigbird.checkpoint import (
    LOCK_FILE,
    DirectoryInUseError,
    atomic_write_text,
    lock_directory,
    partial_file,
    recover_directory,
    remove_staging_directories,
)
from flax_bigbird.checkpoint.sentence_transformers import remove_embedding_modules
from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.option_names import translate_saved_options
from flax_bigbird.train.arguments import TrainingArguments
from flax_bigbird.train.option_files import to_yaml
from flax_bigbird.train.resuming import check_resumed_options
from flax_bigbird.train.state import TrainerState


@dataclass(frozen=True)
class RunDirectory:
    """The paths of a run's files. When the run is finished, the model is saved in `root` itself."""

    root: Path

    @property
    def options(self) -> Path:
        return self.root / "options.yaml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def best(self) -> Path:
        return self.root / "best"

    @property
    def report(self) -> Path:
        return self.root / "report.json"

    def is_started(self) -> bool:
        """Returns whether the directory holds a checkpoint of the run, or the finished run."""
        has_checkpoint = self.checkpoints.is_dir() and any(
            path.name.isdigit() for path in self.checkpoints.iterdir()
        )
        return has_checkpoint or self.is_finished()

    def is_finished(self) -> bool:
        """Returns whether the run is finished: its report, which is written last, exists."""
        return self.report.exists()

    def load_report(self) -> dict[str, Any]:
        """Returns the report of a finished run."""
        return json.loads(self.report.read_text(encoding="utf-8"))

    def create(self, options: TrainingArguments) -> None:
        """Creates the directory of a new run, and removes an earlier run that is not resumed.

        The directory of a run that will be resumed stays as it is.
        """
        if self.is_started() and not options.overwrite_output_dir:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        self._remove_run()
        atomic_write_text(self.options, to_yaml(options))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other runs out of the directory inside the `with` block.

        Raises:
          OptionError: if another run is in the directory.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock_directory(self.root))
            except DirectoryInUseError as error:
                raise OptionError(
                    f"must not be in use by another run; {self.root} is in use by "
                    f"{error.holder}: wait until it ends, stop it, or choose another output_dir",
                    option="output_dir",
                ) from error
            yield

    def has_other_files(self) -> bool:
        """Returns whether the directory holds files, but no run.

        The lock and a file of options that a killed process did not finish do not count.
        """
        if not self.root.exists() or self.options.exists():
            return False
        names = {LOCK_FILE, partial_file(self.options).name}
        return any(path.name not in names for path in self.root.iterdir())

    def remove_resume_files(self) -> None:
        """Removes what only an unfinished run needs, and what killed processes have left.

        The caller holds the lock, so that the staging directories are those of killed processes.
        """
        for directory in (self.checkpoints, self.best, self.tokenizer):
            recover_directory(directory)  # so that nothing is left under its temporary names
            shutil.rmtree(directory, ignore_errors=True)
        remove_staging_directories(self.root)
        for path in (self.options, self.metrics, self.report, self.root / "README.md"):
            partial_file(path).unlink(missing_ok=True)

    def check_free_space(self, model_bytes: int) -> None:
        """Raises `OptionError` unless two checkpoints of the run and two models fit on the disk.

        What a run that is resumed has on the disk already is part of them.

        Args:
          model_bytes: The size of the model's parameters; a checkpoint is three times as large.
        """
        held = sum(_num_bytes(directory) for directory in (self.checkpoints, self.best))
        needed = max(0, (2 * 3 + 2) * model_bytes - held)
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise OptionError(
                "must have room for two checkpoints and two models, "
                f"{needed / 2**20:,.0f} MiB beyond what the run has; {self.root} has "
                f"{free / 2**20:,.0f} MiB free: free some space, or choose a directory on another "
                "disk",
                option="output_dir",
            )

    def _remove_run(self) -> None:
        """Removes the run's own files except options.yaml, which identifies the directory."""
        self.remove_resume_files()
        shutil.rmtree(self.tensorboard, ignore_errors=True)
        names = ("report.json", "metrics.jsonl", "README.md", "loss.png", "confusion_matrix.png")
        for name in names:
            (self.root / name).unlink(missing_ok=True)
        remove_embedding_modules(self.root)  # the new run may have another task


def open_run_directory(options: TrainingArguments) -> RunDirectory:
    """Returns the run's directory, which must be new, empty, or of this same run. Writes nothing.

    Raises:
      OptionError: if the directory cannot be written, or holds anything other than this run.
    """
    directory = RunDirectory(Path(options.output_dir).expanduser())
    root = directory.root
    if root.exists() and not root.is_dir():
        raise OptionError(
            f"must be a directory; {root} is a file: choose another directory", option="output_dir"
        )
    if directory.has_other_files():
        raise OptionError(
            "must be new, empty or the directory of a run; "
            f"{root} holds other files: choose another directory",
            option="output_dir",
        )
    if directory.is_started() and not options.overwrite_output_dir:
        check_resumed_options(root, load_saved_options(directory.options), options)
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OptionError(
            f"must be writable; {root} is not ({error.strerror}): choose another directory",
            option="output_dir",
        ) from error
    return directory


@contextlib.contextmanager
def explain_full_disk(directory: RunDirectory, state: TrainerState) -> Iterator[None]:
    """Re-raises a disk-full error with a message that says how to resume the run."""
    try:
        yield
    except Exception as error:
        if not _is_disk_full(error):
            raise
        raise OSError(
            errno.ENOSPC,
            f"No space left on device, after step {state.global_step:,}; the last checkpoint is "
            "complete: free some space, and run the same command again to resume",
            str(directory.root),
        ) from error


def load_saved_options(path: Path) -> dict[str, Any]:
    """Returns the options that a run saved, by their current names."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        values = None
    if not isinstance(values, dict):
        raise OptionError(
            f"{path} must hold the options of a run; it is broken: choose another output_dir, or "
            "start again with overwrite_output_dir"
        )
    return translate_saved_options(values)


def _num_bytes(directory: Path) -> int:
    """Returns the size of the files in a directory; 0 if there is none."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _is_disk_full(error: BaseException) -> bool:
    """Returns whether an error means a full disk.

    The errors of native libraries show it only in their message.
    """
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return is_full or os.strerror(errno.ENOSPC) in str(error)
