"""A run's folder: what lies where, and whether a run may begin or go on in it."""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from flax_bigbird.tasks.files import write_whole
from flax_bigbird.train.options import OptionError, TrainOptions, to_yaml

# Options that a run may change between its starts.
FREE = {"overwrite", "log_every", "save_every", "output_dir"}


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The files of a run. The model itself lies in the folder when the run has ended."""

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

    def has_begun(self) -> bool:
        """Whether there is something to go on from, or the end."""
        saved = self.checkpoints.is_dir() and any(
            p.name.isdigit() for p in self.checkpoints.iterdir()
        )
        return saved or self.is_finished()

    def is_finished(self) -> bool:
        """The report is written last."""
        return self.report.exists()

    def drop_what_is_only_for_going_on(self) -> None:
        for folder in (self.checkpoints, self.best, self.tokenizer):
            shutil.rmtree(folder, ignore_errors=True)

    def metrics_up_to(self, step: int) -> None:
        """Drops the lines of steps that will be done again."""
        if not self.metrics.exists():
            return
        lines = self.metrics.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        write_whole(self.metrics, "".join(f"{line}\n" for line in kept))


def check_folder(options: TrainOptions) -> RunFolder:
    """The run's folder, which is new, empty, or of this same run; nothing is written.

    Raises:
      OptionError: the folder cannot be written, or holds something else than this run.
    """
    folder = RunFolder(Path(options.output_dir).expanduser())
    root = folder.root
    if root.exists() and not root.is_dir():
        raise OptionError(f"output_dir must be a folder; {root} is a file: name another")
    if root.exists() and any(root.iterdir()):
        if not folder.options.exists():
            raise OptionError(
                f"output_dir must be new, empty or a run's folder; {root} holds other files: name "
                "another"
            )
        if not options.overwrite and folder.has_begun():
            _check_same(folder, options)
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OptionError(
            f"output_dir must be writable; {root} is not ({error.strerror}): name another"
        ) from error
    return folder


def begin(folder: RunFolder, options: TrainOptions) -> None:
    """Makes the folder ready: as it is for a run that goes on, else without an earlier run."""
    if folder.has_begun() and not options.overwrite:
        return
    folder.root.mkdir(parents=True, exist_ok=True)
    _remove_run(folder)
    write_whole(folder.options, to_yaml(options))


def _check_same(folder: RunFolder, options: TrainOptions) -> None:
    import yaml

    try:
        before = yaml.safe_load(folder.options.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        before = None
    if not isinstance(before, dict):
        raise OptionError(
            f"{folder.options} must be the options of a run; it is broken: name another folder, "
            "or start anew with overwrite"
        )
    now = options.as_dict()
    other = [name for name in now if name not in FREE and before.get(name) != now[name]]
    if other:
        shown = "; ".join(f"{name} {before.get(name)!r}, now {now[name]!r}" for name in other[:5])
        raise OptionError(
            f"a run goes on with the options it began with; {folder.root} has {shown}: give those, "
            "name another output_dir, or start anew with overwrite"
        )


def _remove_run(folder: RunFolder) -> None:
    """The run's own files but options.yaml, by which the folder is known; others stay."""
    folder.drop_what_is_only_for_going_on()
    shutil.rmtree(folder.tensorboard, ignore_errors=True)
    for name in ("report.json", "metrics.jsonl", "README.md", "loss.png", "confusion_matrix.png"):
        (folder.root / name).unlink(missing_ok=True)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # half a line, of a run that was killed


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
