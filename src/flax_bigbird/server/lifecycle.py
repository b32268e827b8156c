"""Runs a server: loads and compiles, listens, and finishes what was accepted when it is to end."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from flax_bigbird._messages import pluralize
from flax_bigbird.data.errors import OptionError
from flax_bigbird.server import logs
from flax_bigbird.server.app import create_app
from flax_bigbird.server.engine import Engine
from flax_bigbird.server.http_protocol import limited_protocol
from flax_bigbird.server.loading import (
    ModelSource,
    compile_programs,
    load_models,
    resolve_models,
    slice_tokens,
)
from flax_bigbird.server.metrics import Metrics
from flax_bigbird.server.security import MAX_HEAD_BYTES
from flax_bigbird.server.service import Service
from flax_bigbird.server.settings import API_KEY_VARIABLE, ServerSettings

logger = logging.getLogger(logs.NAME)

BACKLOG = 2048
MAX_FILES = 65_536
POLL_SECONDS = 0.05


def create_service(settings: ServerSettings) -> Service:
    """Returns the state of a server whose models are not loaded yet."""
    metrics = Metrics()
    engine = Engine(settings, slice_tokens(settings), metrics.on_batch)
    metrics.watch(engine)
    return Service(settings, engine, metrics)


def prepare(service: Service, sources: list[ModelSource]) -> None:
    """Loads the models, compiles all programs, and starts the device's thread.

    Raises:
      OptionError: if a model cannot be loaded.
    """
    begun = time.monotonic()
    service.models = load_models(sources, service.settings)

    def on_progress(compiled: int, total: int) -> None:
        if service.engine.is_draining:
            raise OptionError("the server was stopped before it was ready")
        service.progress = f"{compiled} of {pluralize(total, 'program')} compiled"
        if compiled in (1, total) or compiled % 10 == 0:
            logger.info(service.progress)

    compile_programs(service.models, on_progress)
    service.engine.start()
    gc.collect()
    gc.freeze()  # the models live as long as the process: later collections skip them
    service.is_ready = True
    seconds = round(time.monotonic() - begun, 1)
    logger.info("ready", extra={"fields": {"seconds": seconds, "models": len(sources)}})


def serve(names: list[str], settings: ServerSettings) -> None:
    """Serves models until SIGTERM or SIGINT, and returns when accepted requests are answered.

    Args:
      names: The models; see `flax_bigbird.server.loading.resolve_models`.
      settings: The options.

    Raises:
      OptionError: if a model cannot be served, or the address cannot be used.
    """
    logs.configure(settings.log_format)
    raise_file_limit()
    with _listen(settings) as listener:
        sources = resolve_models(names)
        service = create_service(settings)
        host, port = listener.getsockname()[:2]
        logger.info("listening", extra={"fields": {"host": host, "port": port}})
        if not settings.is_loopback and not settings.api_key:
            logger.warning(f"others can use the server without a key: set {API_KEY_VARIABLE}")
        server = _Server(_server_config(service))
        asyncio.run(_run(server, service, sources, listener))
    if not server.is_aborted:
        service.engine.stop()
    logger.info("ended")


def _server_config(service: Service) -> uvicorn.Config:
    """Returns the options of uvicorn, whose limits are those of the settings."""
    settings = service.settings
    return uvicorn.Config(
        create_app(service),
        http=limited_protocol(settings.header_timeout, settings.body_timeout),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(settings.keep_alive),
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


class _Server(uvicorn.Server):
    """A server whose signals are handled by `_run`."""

    is_aborted = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(
    server: _Server, service: Service, sources: list[ModelSource], listener: socket.socket
) -> None:
    """Listens at once, prepares in a thread, and drains after a signal."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stopping, server)
    running = asyncio.create_task(server.serve([listener]))
    preparing = asyncio.create_task(_in_daemon_thread(prepare, service, sources))
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, preparing, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if preparing.done() and not preparing.exception():
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
    server.is_aborted = not (preparing.done() and not preparing.exception())
    await _drain(service, server)
    server.should_exit = True
    await running
    stopped.cancel()
    if preparing.done():
        preparing.result()


def _stop(stopping: asyncio.Event, server: _Server) -> None:
    """Handles a signal: the first one lets requests finish, the second one does not."""
    if stopping.is_set():
        server.force_exit = True
    stopping.set()


async def _drain(service: Service, server: _Server) -> None:
    """Refuses new requests, and waits until those that were accepted are answered.

    It does not wait after a second signal.
    """
    service.engine.is_draining = True
    waiting = service.engine.num_requests
    logger.info("draining", extra={"fields": {"requests": waiting}})
    until = time.monotonic() + service.settings.drain_timeout
    while service.engine.num_requests and time.monotonic() < until and not server.force_exit:
        await asyncio.sleep(POLL_SECONDS)
    if service.engine.num_requests:
        why = "before a second signal" if server.force_exit else "within the time to drain"
        logger.warning(f"requests were not finished {why}")


async def _in_daemon_thread(function: Any, *arguments: Any) -> None:
    """Calls a function in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(None)

    def run() -> None:
        error: BaseException | None = None
        try:
            function(*arguments)
        except BaseException as raised:  # the event loop's thread raises it
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, error)

    threading.Thread(target=run, name="prepare", daemon=True).start()
    await future


def raise_file_limit() -> None:
    """Raises the limit of open files, of which each connection is one, as far as is allowed."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(settings: ServerSettings) -> socket.socket:
    """Returns a socket that listens on the address of the settings.

    Raises:
      OptionError: if the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise OptionError(
            f"host and port must be an address of this machine that is free; got "
            f"{settings.host}:{settings.port} ({error}): give others"
        ) from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
