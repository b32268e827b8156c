"""The options of `bigbird serve`; importing them imports neither JAX nor the extra `serve`."""

import ipaddress
import os
from typing import Any

import pydantic

from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.options import MODEL, Options, option

NETWORK, LIMITS, BATCHING, LOG = "Network", "Limits", "Batching", "Log"

API_KEY_VARIABLE = "BIGBIRD_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_KEY_LENGTH = 8


class ServerSettings(Options):
    """The options of a server."""

    task = None

    host: str = option(
        "127.0.0.1",
        help="The address to listen on. Other machines reach the server only if it is another "
        "than the default, for example 0.0.0.0.",
        panel=NETWORK,
    )
    port: int = option(
        8000, help="The port; 0 takes a free one, which is logged.", panel=NETWORK, ge=0, le=65535
    )
    api_key: list[str] = option(
        [],
        help="A key, one of which requests must send as `Authorization: Bearer KEY`. Other users "
        f"of the machine see flags, so prefer the environment variable {API_KEY_VARIABLE}, with "
        "commas between several keys.",
        panel=NETWORK,
    )
    cors_origin: list[str] = option(
        [],
        help="An origin, such as https://example.org, whose pages may send requests.",
        panel=NETWORK,
    )
    allowed_host: list[str] = option(
        [],
        help="A host name that requests may be for. By default, a server on a loopback address "
        "answers only requests for that address, and others answer all.",
        panel=NETWORK,
    )
    max_body_bytes: int = option(
        8 * 2**20, help="The size of the body of a request.", panel=LIMITS, ge=1024, le=2**30
    )
    max_input_tokens: int = option(
        262_144, help="The number of tokens of a text.", panel=LIMITS, ge=8
    )
    max_client_batch_size: int = option(
        64, help="The number of texts of a request.", panel=LIMITS, ge=1
    )
    max_concurrent_requests: int = option(
        512,
        help="The number of requests that are worked on or wait; further ones have to try again.",
        panel=LIMITS,
        ge=1,
    )
    max_queue_tokens: int = option(
        1_048_576,
        help="The number of tokens, with padding, that wait for the device.",
        panel=LIMITS,
        ge=8,
    )
    max_new_tokens: int = option(
        256, help="The number of tokens that a request may generate.", panel=LIMITS, ge=1
    )
    request_timeout: float = option(
        60.0, help="The seconds after which a request is given up.", panel=LIMITS, ge=0.1
    )
    header_timeout: float = option(
        10.0, help="The seconds in which the head of a request must arrive.", panel=LIMITS, ge=0.1
    )
    body_timeout: float = option(
        30.0,
        help="The seconds in which the body of a request must arrive, and in which a client must "
        "read a part of an answer that waits for it.",
        panel=LIMITS,
        ge=0.1,
    )
    keep_alive: float = option(
        75.0, help="The seconds after which an idle connection is closed.", panel=LIMITS, ge=1
    )
    drain_timeout: float = option(
        60.0,
        help="The seconds that accepted requests have to finish after SIGTERM.",
        panel=LIMITS,
        ge=0,
    )
    max_batch_tokens: int | None = option(
        None,
        help="The number of tokens of a batch, with padding. By default, it is 1,024 on a CPU and "
        "16,384 on an accelerator; a single window may have more.",
        panel=BATCHING,
        ge=8,
    )
    max_wait_ms: float = option(
        3.0,
        help="The milliseconds that an idle device waits for further texts for a batch.",
        panel=BATCHING,
        ge=0,
        le=1000,
    )
    slice_tokens: int | None = option(
        None,
        help="The number of tokens after whose work a batch lets a shorter one pass. By default, "
        "it is 512 on a CPU, and batches run undivided on an accelerator.",
        panel=BATCHING,
        ge=1,
    )
    tokenization_workers: int | None = option(
        None,
        help="The number of threads for tokenization. By default, it is that of the processors, "
        "at most 4.",
        panel=BATCHING,
        ge=1,
        le=64,
    )
    max_length: int | None = option(
        None,
        help="The maximum number of tokens of a window. By default, it is the length of each "
        "model's position embeddings, or what the model was trained with.",
        panel=MODEL,
        ge=8,
    )
    min_bucket_length: int = option(
        128,
        help="Inputs are padded to this length, or to its doubles up to max_length.",
        panel=MODEL,
        ge=8,
    )
    dtype: str = option(
        "float32",
        help="The dtype of the computation.",
        panel=MODEL,
        choices=("float32", "bfloat16"),
    )
    log_format: str = option(
        "text", help="The form of the log, on standard error.", panel=LOG, choices=("text", "json")
    )

    @pydantic.model_validator(mode="after")
    def _check_keys(self) -> "ServerSettings":
        short = [key for key in self.api_key if len(key) < MIN_KEY_LENGTH]
        if short:
            raise OptionError(
                f"must have at least {MIN_KEY_LENGTH} characters; got one of "
                f"{len(short[0])}: make one with `openssl rand -hex 32`",
                option="api_key",
            )
        return self

    @pydantic.model_validator(mode="after")
    def _check_origins(self) -> "ServerSettings":
        for origin in self.cors_origin:
            if origin != "*" and "://" not in origin:
                raise OptionError(
                    f"must be an origin such as https://example.org, or *; got "
                    f"{origin!r}: add the scheme",
                    option="cors_origin",
                )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether the address can be reached from this machine only."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name
            return self.host.lower() in LOOPBACK

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host names that requests may be for, in lower case; empty for all of them."""
        names = self.allowed_host or ([*LOOPBACK, self.host] if self.is_loopback else [])
        return tuple(name.lower() for name in names)

    @property
    def num_tokenization_workers(self) -> int:
        """The number of threads for tokenization."""
        return self.tokenization_workers or min(4, os.cpu_count() or 1)

    def model_options(self) -> dict[str, Any]:
        """Returns the options with which each model is loaded."""
        names = ("max_length", "min_bucket_length", "dtype")
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


def with_environment(options: dict[str, Any]) -> dict[str, Any]:
    """Returns options with the API keys of the environment, unless the options have keys."""
    keys = os.environ.get(API_KEY_VARIABLE, "")
    if options.get("api_key") or not keys:
        return options
    return options | {"api_key": [key for key in map(str.strip, keys.split(",")) if key]}
