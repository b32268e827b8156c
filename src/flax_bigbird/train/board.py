"""TensorBoard's files, written where the run is: what goes wrong on the disk is raised there."""

import contextlib
import time
from pathlib import Path

_FLUSH_SECONDS = 10


class Board:
    """Scalars by step. `tensorboardX`'s own writer has a thread, whose errors nobody would see."""

    def __init__(self, folder: Path, first_step: int):
        """`first_step`: what an earlier process wrote from there on is hidden; 0: none did."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        if first_step:
            self._write(first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, name: str, value: float, step: int) -> None:
        from tensorboardX.summary import scalar

        self._write(step, summary=scalar(name, value))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Leaves nothing to be written later; a full disk is for those to tell who need it."""
        with contextlib.suppress(OSError):
            self._writer.flush()
        with contextlib.suppress(OSError):
            self._writer._py_recordio_writer.close()

    def _write(self, step: int, **what) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

        self._writer.write_event(Event(wall_time=time.time(), step=step, **what))
