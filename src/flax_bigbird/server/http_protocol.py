"""HTTP/1.1 with limits on heads that are slow, malformed or too large, and on slow readers."""

import asyncio
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from flax_bigbird.data.json_output import to_json
from flax_bigbird.server.errors import RequestError, error_body

logger = logging.getLogger("flax_bigbird.server")


def limited_protocol(header_timeout: float, read_timeout: float) -> type[H11Protocol]:
    """Returns the class of a protocol that closes the connections of slow clients.

    Args:
      header_timeout: The seconds in which the head of a request must arrive.
      read_timeout: The seconds in which a client must read a part of an answer that waits for it.
    """

    class LimitedProtocol(H11Protocol):
        """Closes connections whose next request does not arrive, or whose answer is not read."""

        _timer: asyncio.TimerHandle | None = None
        _reader_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # A connection may be idle before its first request as long as between two of them.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

        def data_received(self, data: bytes) -> None:
            if self.conn.their_state is h11.IDLE and self._timer is None:
                self._timer = self.loop.call_later(header_timeout, self._give_up)
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._stop_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._stop_reader_timer()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._expect_reader()

        def resume_writing(self) -> None:
            self._stop_reader_timer()
            super().resume_writing()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._expect_reader()  # what it has not read would otherwise be kept

        def _expect_reader(self) -> None:
            """Waits until the client has read a part of what was sent."""
            self._stop_reader_timer()
            if size := self.transport.get_write_buffer_size():  # type: ignore[attr-defined]
                self._reader_timer = self.loop.call_later(read_timeout, self._check_reader, size)

        def _check_reader(self, size_before: int) -> None:
            if self.transport.get_write_buffer_size() < size_before:  # type: ignore[attr-defined]
                self._expect_reader()
            else:
                self.transport.abort()

        def _stop_reader_timer(self) -> None:
            if self._reader_timer is not None:
                self._reader_timer.cancel()
                self._reader_timer = None

        def send_400_response(self, msg: str) -> None:
            """Answers a head that is no HTTP, or too large."""
            self._refuse("the request must be HTTP/1.1, with a head of at most 32 KiB", 400)

        def _give_up(self) -> None:
            self._timer = None
            if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
                self._refuse(f"the head must arrive within {header_timeout:g} s", 408)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _refuse(self, message: str, status: int) -> None:
            self._stop_timer()
            logger.info("request", extra={"fields": {"path": "other", "status": status}})
            error = RequestError("validation", message, status=status)
            body = to_json(error_body(error, "")).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"connection", b"close"),
            ]
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                for event in (
                    h11.Response(status_code=status, headers=headers),
                    h11.Data(data=body),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return LimitedProtocol
