"""`bigbird embed`: writes a vector for every document of data files, or for each of its chunks."""

from collections.abc import Callable
from typing import Any

from flax_bigbird.cli.bulk import (
    FILES_HELP,
    MODEL_HELP,
    engine_flags,
    file_flags,
    ray_options,
    run_on_files,
)
from flax_bigbird.cli.flags import (
    argument,
    command_from_parameters,
    field_flag,
    in_panel_order,
    parse_flags,
)
from flax_bigbird.tasks.options import command_options, option_fields


def embed_command() -> Callable[..., None]:
    """Returns the function of `bigbird embed`, with its flags."""
    fields = option_fields(command_options("embedding", "embed"))
    flags = [field_flag(name, field) for name, field in fields.items()]
    parameters = [
        argument("model", str, MODEL_HELP),
        argument("files", list[str], FILES_HELP),
        *in_panel_order([*file_flags(".parquet or .npy"), *engine_flags(), *flags]),
    ]
    return command_from_parameters(run_embedding, parameters)


def run_embedding(
    model: str,
    files: list[str],
    output: str | None,
    overwrite: bool | None,
    keep: list[str] | None,
    engine: str | None,
    address: str | None,
    concurrency: str | None,
    **flags: Any,
) -> None:
    """Writes the vectors to `output`, with a progress bar.

    Raises:
      CommandError: if an extra is missing, or if options, model or data cannot be used.
      InterruptedWork: if Ctrl-C, SIGTERM or SIGUSR1 stopped it; the vectors so far are saved.
    """

    on_ray = ray_options({"engine": engine, "address": address, "concurrency": concurrency})

    def work(target: str, **events: Any) -> int:
        from flax_bigbird import inference

        options = parse_flags(flags, option_fields(command_options("embedding", "embed")))
        common = {"keep": keep or (), "overwrite": bool(overwrite), **events}
        if on_ray is not None:
            from flax_bigbird.inference import ray

            return ray.embed_files(model, files, target, **on_ray, **common, **options)
        return inference.embed_files(
            inference.load_embedder(model, **options), files, target, **common
        )

    run_on_files(work, files, output, "FILE.parquet", "the embedding")
