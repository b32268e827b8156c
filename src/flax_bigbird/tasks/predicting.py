"""Answers for files of any size: in order, a part at a time, gone on with after an end midway."""

import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flax_bigbird.pretrained import local_path
from flax_bigbird.tasks import files
from flax_bigbird.tasks.base import Row, Task
from flax_bigbird.tasks.errors import DataError, OptionError

FORMATS = (".jsonl", ".parquet")
ROWS_A_GROUP = 4096  # of Parquet


class Stopped(Exception):
    """Prediction was asked to stop; what is done is kept."""

    def __init__(self, rows: int):
        super().__init__(f"stopped after {rows} rows")
        self.rows = rows


@dataclasses.dataclass(frozen=True)
class Part:
    """The unfinished output: lines that are done, how many, and of which job."""

    folder: Path

    @classmethod
    def of(cls, output: Path) -> "Part":
        return cls(output.with_name(f"{output.name}.part"))

    @property
    def lines(self) -> Path:
        return self.folder / "rows.jsonl"

    @property
    def job(self) -> Path:
        return self.folder / "job.json"

    @property
    def done(self) -> Path:
        return self.folder / "done.json"


def predict(
    task: Task,
    model: str,
    inputs: Sequence[str],
    output: str | Path,
    *,
    keep: Sequence[str] = (),
    overwrite: bool = False,
    began: Callable[[int, int], None] = lambda done, total: None,
    advanced: Callable[[int], None] = lambda done: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Writes one answer a row of `inputs`, in their order, to `output` (.jsonl or .parquet).

    The answers stand in `OUTPUT.part` until all are there. Called again after an end midway it
    goes on behind the last part that was saved whole; the result is that of an unbroken call.

    Args:
      model: where the task's model came from; another one does not go on with this one's part.
      keep: columns of the input that the output repeats.
      began, advanced: hear of the rows done at the start, of all, and after each part.
      should_stop: asked between parts.

    Returns:
      The number of rows.

    Raises:
      OptionError, DataError: of `output` or the files, before anything is written; of a row that
        the task cannot read, when it comes to it.
      Stopped: `should_stop` said so.
    """
    target = Path(output).expanduser()
    if target.suffix not in FORMATS:
        raise OptionError(
            f"output must end in {' or '.join(FORMATS)}; got {target.name!r}: rename it"
        )
    if target.exists() and not overwrite:
        raise OptionError(f"output must be new; {target} exists: name another, or give overwrite")
    if not target.parent.is_dir():
        raise OptionError(f"output must lie in a folder that exists; got {target}: make it")
    kind, found = files.expand(inputs)
    files.check(found, kind)
    _check_keep(keep, found, kind)
    total = files.count(found, kind)
    job = _job(task, model, found, keep)
    part = Part.of(target)
    done, size = _begin(part, job, overwrite)
    began(done, total)
    with part.lines.open("r+b" if part.lines.exists() else "wb") as stream:
        stream.truncate(size)
        stream.seek(size)
        rows, asked = itertools.tee(itertools.islice(files.rows(found, kind), done, None))
        for answers in task.answers(asked, first=done + 1):
            for answer in answers:
                line = _line(next(rows), keep, answer)
                stream.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
            stream.flush()
            os.fsync(stream.fileno())
            done += len(answers)
            files.write_whole(part.done, json.dumps({"rows": done, "bytes": stream.tell()}))
            advanced(done)
            if should_stop() and done < total:
                raise Stopped(done)
    _publish(part, target)
    return done


def _line(row: Row, keep: Sequence[str], answer: Row) -> Row:
    """The columns to keep, then the answer: `predicted_label` where `label` is kept."""
    kept = {name: row.get(name) for name in keep}
    return kept | {f"predicted_{k}" if k in kept else k: value for k, value in answer.items()}


def _check_keep(keep: Sequence[str], found: list[Path], kind: str) -> None:
    first = next(files.rows(found, kind), {})
    for name in keep:
        if name not in first:
            raise DataError(
                f"keep must name columns of the input; got {name!r}: there are {', '.join(first)}"
            )


def _job(task: Task, model: str, found: list[Path], keep: Sequence[str]) -> dict[str, Any]:
    """All that the answers depend on."""
    folder = Path(local_path(str(model)))
    weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return {
        "task": task.name,
        "model": model,
        "weights": [_stamp(path) for path in weights],
        "options": task.options.as_dict(),
        "dtype": str(task.model.dtype),
        "inputs": [_stamp(path) for path in found],
        "keep": list(keep),
    }


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _begin(part: Part, job: dict[str, Any], overwrite: bool) -> tuple[int, int]:
    """(rows done, bytes of them), of this job; the part's folder is there."""
    job = json.loads(json.dumps(job, default=str))
    if overwrite:
        shutil.rmtree(part.folder, ignore_errors=True)
    before = _read(part.job)
    if before is not None and before != job:
        other = [name for name in job if before.get(name) != job[name]]
        raise OptionError(
            f"a prediction goes on with what it began with; {part.folder} has other "
            f"{', '.join(other)}: give those, name another output, or give overwrite"
        )
    if before is None:
        shutil.rmtree(part.folder, ignore_errors=True)
        part.folder.mkdir()
        files.write_whole(part.job, json.dumps(job))
    done = _read(part.done) or {"rows": 0, "bytes": 0}
    return done["rows"], done["bytes"]


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _publish(part: Part, target: Path) -> None:
    """The lines under the output's name, as Parquet where that is asked for."""
    made = part.lines
    if target.suffix == ".parquet":
        made = part.folder / "rows.parquet"
        _to_parquet(part.lines, made)
    os.replace(made, target)
    shutil.rmtree(part.folder)


def _to_parquet(lines: Path, made: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    def groups() -> Iterator[pyarrow.Table]:
        with lines.open(encoding="utf-8") as stream:
            while group := list(itertools.islice(stream, ROWS_A_GROUP)):
                yield pyarrow.Table.from_pylist([json.loads(line) for line in group])

    # A column may be empty in one group and not in the next.
    schema = None
    for table in groups():
        known = table.schema
        schema = (
            pyarrow.unify_schemas([schema, known], promote_options="permissive")
            if schema
            else known
        )
    with pyarrow.parquet.ParquetWriter(made, schema or pyarrow.schema([])) as writer:
        for table in groups():
            missing = [f for f in writer.schema if f.name not in table.column_names]
            for field in missing:
                table = table.append_column(field, pyarrow.nulls(len(table), field.type))
            writer.write_table(table.select(writer.schema.names).cast(writer.schema))
    with made.open("rb") as stream:
        os.fsync(stream.fileno())
