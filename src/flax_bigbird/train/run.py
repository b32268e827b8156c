"""A training run from options to a saved model."""

import dataclasses
import errno
import math
import os
import shutil
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import flax_bigbird
from flax_bigbird.train import reading, report, start, tokens
from flax_bigbird.train.evaluating import EVALUATION_SEED
from flax_bigbird.train.loop import Loop, Plan, Progress, Validation, best_metric
from flax_bigbird.train.objectives import OBJECTIVES, Objective
from flax_bigbird.train.objectives.base import Prepared
from flax_bigbird.train.optimizer import optimizer
from flax_bigbird.train.options import OptionError, TrainOptions
from flax_bigbird.train.outputs import RunFolder, begin, check_folder
from flax_bigbird.train.packing import PackedRows, pack
from flax_bigbird.train.pipeline import (
    Bucket,
    batches_per_epoch,
    evaluation_batches,
    into_buckets,
    padding_share,
    training_batches,
)
from flax_bigbird.train.run_checkpoints import RunCheckpoints
from flax_bigbird.train.speed import matmul_flops_per_second, training_flops_per_token
from flax_bigbird.train.watch import NoScreen, RunWatcher, Screen

if TYPE_CHECKING:
    from datasets import Dataset


@dataclasses.dataclass(frozen=True)
class Data:
    """Rows as pieces, in buckets."""

    prepared: Prepared
    lengths: np.ndarray
    buckets: list[Bucket]
    rows: "Dataset | PackedRows"

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def padding(self) -> float:
        return padding_share(self.lengths, self.buckets)


def train(options: TrainOptions, screen: Screen | None = None) -> dict[str, Any]:
    """Trains, keeping the run in `options.output_dir`; a run that was broken off goes on.

    Returns:
      What `report.json` holds: the best metrics, their step, facts of data, model and speed. A run
      that has ended before is not done again: its report comes back.

    Raises:
      OptionError, DataError: something is wrong with options or data; nothing was trained.
      Interrupted: `screen.should_stop()` said so; the run is saved.
      TrainingError: the loss is not finite any more.
    """
    screen = screen or NoScreen()
    folder = check_folder(options)
    if folder.is_finished() and not options.overwrite:
        screen.note(f"{folder.root} holds this run, finished.")
        return report.read(folder)
    asked, options = options, start.with_length(options)
    objective = OBJECTIVES[options.task](options)
    training_rows, validation_rows = reading.read_training_data(options)
    objective.read(training_rows)
    begin(folder, asked)
    tokenizer = start.find_tokenizer(options, objective, training_rows, folder.tokenizer)
    model, notes = start.find_model(options, objective, tokenizer)
    _check_disk(folder, model)
    objective.tokenizer_is(tokenizer, model.config.vocab_size)
    objective.model_is(model.config)
    training = _prepared(options, objective, training_rows, "training data", screen)
    if options.packing:
        training = _packed(options, training, model.config, screen)
    validation = None
    if validation_rows is not None:
        validation = _prepared(options, objective, validation_rows, "validation data", screen)
    for note in notes:
        screen.note(note)
    if not (options.tokenizer or options.start):
        screen.note(f"A new vocabulary of {len(tokenizer):,} pieces.")
    plan = plan_of(options, training)
    count = sum(len(bucket.rows) for bucket in training.buckets)
    screen.note(
        f"{count:,} rows of {training.tokens:,} tokens to train on, padding "
        f"{training.padding:.0%}; {plan.steps:,} steps."
    )
    return _train(options, objective, model, training, validation, plan, folder, screen)


def plan_of(options: TrainOptions, training: Data) -> Plan:
    """Steps and when to evaluate."""
    an_epoch = batches_per_epoch(training.buckets) / options.gradient_accumulation
    steps = options.max_steps or max(1, math.ceil(options.epochs * an_epoch))
    return Plan(steps, options.evaluate_every or max(1, min(steps, round(an_epoch))))


def _prepared(
    options: TrainOptions, objective: Objective, rows: "Dataset", what: str, screen: Screen
) -> Data:
    prepared = objective.prepare(rows, what)
    for note in prepared.notes:
        screen.note(f"{note}.")
    lengths = tokens.numbers(prepared.rows, "length")
    buckets = into_buckets(
        lengths, options.buckets, options.tokens_per_batch // objective.inputs_per_row
    )
    return Data(prepared, lengths, buckets, prepared.rows)


def _packed(options: TrainOptions, data: Data, config: Any, screen: Screen) -> Data:
    batch = max(1, options.tokens_per_batch // options.length)
    rows = pack(data.prepared.rows, data.lengths, data.buckets, options.length, batch, config)
    together = sum(len(row) for row in rows.packs)
    screen.note(
        f"{together:,} documents share {len(rows.packs):,} rows of {options.length:,} tokens; "
        f"{len(data.lengths) - together:,} are too long to share one."
    )
    return Data(data.prepared, data.lengths, rows.buckets, rows)


def _train(
    options: TrainOptions,
    objective: Objective,
    model: Any,
    training: Data,
    validation: Data | None,
    plan: Plan,
    folder: RunFolder,
    screen: Screen,
) -> dict[str, Any]:
    transform = optimizer(options, plan.steps)
    params = model.params
    state = transform.init(params)
    checkpoints = RunCheckpoints(folder.checkpoints)
    progress = Progress()
    saved = checkpoints.restore({"params": params, "optimizer": state})
    if saved is not None:
        params, state = saved.arrays["params"], saved.arrays["optimizer"]
        progress = Progress(**saved.values)
        screen.note(f"Going on from step {progress.step:,}.")
    batches = iter(
        training_batches(training.rows, training.buckets, objective.collate, options.seed)
    )
    if progress.data:
        batches.set_state(progress.data)
    length = int(training.lengths.mean())
    share = objective.logits_share
    work = training_flops_per_token(model.config, params, length, share)
    full_speed = matmul_flops_per_second(options.dtype) / work
    watcher = RunWatcher(
        options, plan, folder, model, checkpoints, screen, full_speed, progress.step
    )
    loop = Loop(options, objective, model, transform, plan)
    screen.begin(plan, progress)

    held_out = _validation(objective, validation) if validation else None
    try:
        params, state = loop.run(params, state, progress, batches, held_out, watcher)
    except Exception as error:
        if not _is_full(error):
            raise
        raise OSError(
            errno.ENOSPC,
            f"No space left on device, after step {progress.step:,}; the last checkpoint is whole: "
            "make room, and the same command goes on",
            str(folder.root),
        ) from error
    finally:
        watcher.close()
        checkpoints.close()
    outputs = None
    if held_out is not None:
        # By what is on the disk: the report is of the model that users load.
        model = type(model).from_pretrained(folder.best, dtype=model.dtype)
        metrics, outputs = loop.evaluate(model.params, held_out)
    else:
        metrics = {}
        model.params = params
    found = {
        "task": options.task,
        "metrics": metrics,
        "best_metric": best_metric(options, objective) if validation else None,
        "best_step": progress.best_step or progress.step,
        "steps": progress.step,
        "training": _facts(training),
        "validation": _facts(validation) if validation else None,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
        "tokens": progress.tokens,
        "tokens_per_second": watcher.median_speed,
        "mfu": watcher.median_speed / full_speed,
        "seconds": progress.seconds,
        "losses": progress.losses,
        "evaluations": progress.evaluations,
        "versions": {"flax-bigbird": flax_bigbird.__version__, "jax": jax.__version__},
    }
    model.save_pretrained(folder.root)
    shutil.copytree(folder.tokenizer, folder.root, dirs_exist_ok=True)
    report.write(folder, options, objective, found, outputs)
    folder.drop_what_is_only_for_going_on()
    return found


def _validation(objective: Objective, data: Data) -> Validation:
    def batches():
        return evaluation_batches(
            data.prepared.rows, data.buckets, objective.collate, EVALUATION_SEED
        )

    return Validation(data.prepared, batches)


def _facts(data: Data) -> dict[str, float]:
    return {
        "rows": sum(len(bucket.rows) for bucket in data.buckets),
        "tokens": data.tokens,
        "padding": data.padding,
    }


def _is_full(error: BaseException) -> bool:
    """Whether an error is of a full disk; libraries below Python have it as text."""
    full = {errno.ENOSPC, errno.EDQUOT}
    return getattr(error, "errno", None) in full or os.strerror(errno.ENOSPC) in str(error)


def _check_disk(folder: RunFolder, model: Any) -> None:
    """Raises where the disk cannot hold two checkpoints of the run and two models."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    needed = (2 * 3 + 2) * size
    free = shutil.disk_usage(folder.root).free
    if free < needed:
        raise OptionError(
            f"output_dir must have room for two checkpoints and two models, "
            f"{needed / 2**20:,.0f} MiB; {folder.root} has {free / 2**20:,.0f} MiB free: make "
            "room, or name a folder on another disk"
        )
