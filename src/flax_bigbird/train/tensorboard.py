"""Writes TensorBoard event files in the thread of the run, so that errors are raised there."""

import contextlib
import time
from pathlib import Path
from typing import Any

_FLUSH_SECONDS = 10


class TensorBoardWriter:
    """Writes scalars by step.

    `tensorboardX.SummaryWriter` writes in a thread of its own, whose errors, such as a full disk,
    would be lost. This class therefore uses the event file directly.
    """

    def __init__(self, directory: Path, first_step: int):
        """Opens a new event file.

        Args:
          directory: The directory of event files; it is created if it does not exist.
          first_step: The step that the process resumes from, 0 for a new run. TensorBoard hides
            what an earlier process wrote for this step and later ones.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore

        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"))
        self._last_flush = time.monotonic()
        if first_step:
            self._write(first_step, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, tag: str, value: int | float, step: int) -> None:
        """Adds a value; the file is flushed every 10 seconds."""
        from tensorboardX.summary import scalar

        self._write(step, summary=scalar(tag, value))
        if time.monotonic() - self._last_flush > _FLUSH_SECONDS:
            self._writer.flush()
            self._last_flush = time.monotonic()

    def close(self) -> None:
        """Closes the file; a full disk is not an error here, since nothing depends on the file."""
        with contextlib.suppress(OSError):
            self._writer.flush()
        with contextlib.suppress(OSError):
            self._writer._py_recordio_writer.close()

    def _write(self, step: int, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

        self._writer.write_event(Event(wall_time=time.time(), step=step, **fields))
