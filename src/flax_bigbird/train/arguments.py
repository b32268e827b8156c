"""`TrainingArguments`, the options of a training run, and functions that add those of a task.

The names are those of `TrainingArguments` and of the example scripts in `transformers` where those
have one. This module is imported without JAX.
"""

import typing
from typing import Any

import pydantic

from flax_bigbird.pretrained import DEFAULT_MODEL
from flax_bigbird.tasks.options import (
    BATCHES,
    DATA,
    DATA_FILES,
    DEVICES,
    MODEL,
    OPTIMIZATION,
    REQUIRED,
    RUN,
    TaskOptions,
    command_options,
    option,
)
from flax_bigbird.train.argument_checks import check_training_arguments

DEFAULT_LEARNING_RATE = 3e-5  # a usual one for fine-tuning models of base size
VOCABULARIES = ("subwords", "characters")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("linear", "cosine", "constant", "warmup_stable_decay")
GRADIENT_CHECKPOINTING = ("none", "full", "attention")


class TrainingArguments(TaskOptions):
    """The options that a training run has for every task.

    `train_options` returns an instance that has the options of a task too. The run directory keeps
    the options as `options.yaml`.

    Raises:
      OptionError: if a value is not allowed, or an option would have no effect.
    """

    # Data
    train_files: list[str] = option(
        [],
        help=f"{DATA_FILES}, to train on.",
        panel=DATA,
    )
    validation_files: list[str] = option(
        [], help="Files of the same kinds to validate on.", panel=DATA
    )
    dataset: str | None = option(
        None,
        help="The id of a Hub dataset, or a directory that `datasets` loads, instead of files.",
        panel=DATA,
    )
    dataset_config: str | None = option(None, help="The configuration of the dataset.", panel=DATA)
    train_split: str = option("train", help="The split of the dataset to train on.", panel=DATA)
    validation_split: str | None = option(
        None, help="The split of the dataset to validate on.", panel=DATA
    )
    validation_fraction: float = option(
        0.1,
        help="The fraction of the training rows to hold out for validation if no validation data "
        "are given; 0 trains without validation.",
        panel=DATA,
        ge=0,
        le=0.9,
    )

    # Model
    model: str | None = option(
        None,
        help="The directory, shipped name or Hub id of the model to start from. By default, "
        f"fine-tuning starts from {DEFAULT_MODEL} and pretraining from a new model; a tokenizer or "
        "config_overrides without a model also ask for a new model.",
        panel=MODEL,
    )
    config_overrides: dict[str, Any] = option(
        {},
        help="Keys of BigBirdConfig to set, in a new model or in the one to start from.",
        panel=MODEL,
    )
    tokenizer: str | None = option(
        None,
        help="The directory or Hub id of the tokenizer. By default, it is the model's own; for a "
        "new model, one is trained on the training texts.",
        panel=MODEL,
    )
    vocabulary: str = option(
        "subwords",
        help="The tokens of a new tokenizer: parts of words (subwords), or characters, such as the "
        "bases of a genome.",
        panel=MODEL,
        choices=VOCABULARIES,
    )
    vocab_size: int = option(
        8000,
        help="The number of tokens of a new tokenizer, at most.",
        panel=MODEL,
        ge=20,
        le=2**31 - 1,
    )
    resize_vocabulary: bool = option(
        False,
        help="Give the model that training starts from more tokens if the tokenizer has more; the "
        "new ones start from the mean of the old.",
        panel=MODEL,
    )
    random_attention: str = option(
        "fixed",
        help="The rule that chooses random blocks; it is saved in the model's configuration.",
        panel=MODEL,
        choices=("fixed", "google", "hf"),
    )

    # Batches
    gradient_accumulation_steps: int = option(
        1, help="The number of batches per optimizer step.", panel=BATCHES, ge=1
    )
    num_train_epochs: float = option(
        3.0, help="The number of passes over the training data.", panel=BATCHES, ge=1e-6
    )
    max_steps: int | None = option(
        None,
        help="The number of optimizer steps, instead of num_train_epochs. With 0, only a new head "
        "is fitted, by linear probing.",
        panel=BATCHES,
        ge=0,
    )

    # Optimization
    optim: str = option(
        "adamw",
        help="The optimizer. muon is for pretraining: Muon updates the matrices of the encoder's "
        "layers, and AdamW all other parameters, with the same learning rate and weight decay.",
        panel=OPTIMIZATION,
        choices=OPTIMIZERS,
    )
    learning_rate: float | None = option(
        None,
        help=f"The learning rate after the warmup. By default, it is {DEFAULT_LEARNING_RATE:g}, or "
        "less if the head starts from a linear probe that steps of that size would do harm to.",
        panel=OPTIMIZATION,
        ge=0,
        le=10,
    )
    lr_scheduler_type: str = option(
        "linear",
        help="How the learning rate decreases after the warmup.",
        panel=OPTIMIZATION,
        choices=SCHEDULES,
    )
    decay_ratio: float = option(
        0.2,
        help="The fraction of steps, at the end of a run with warmup_stable_decay, in which the "
        "learning rate falls linearly to 0.",
        panel=OPTIMIZATION,
        ge=0,
        le=1,
    )
    warmup_ratio: float = option(
        0.1,
        help="The fraction of steps in which the learning rate rises linearly from 0.",
        panel=OPTIMIZATION,
        ge=0,
        le=1,
    )
    weight_decay: float = option(
        0.01,
        help="The weight decay; biases and LayerNorm parameters have none.",
        panel=OPTIMIZATION,
        ge=0,
        le=10,
    )
    adam_beta1: float = option(
        0.9,
        help="The decay rate of AdamW's mean of gradients.",
        panel=OPTIMIZATION,
        ge=0,
        le=0.9999999,
    )
    adam_beta2: float = option(
        0.999,
        help="The decay rate of AdamW's mean of squared gradients.",
        panel=OPTIMIZATION,
        ge=0,
        le=0.9999999,
    )
    adam_epsilon: float = option(1e-8, help="The epsilon of AdamW.", panel=OPTIMIZATION, ge=0, le=1)
    max_grad_norm: float = option(
        1.0,
        help="The global norm that gradients are clipped to; 0 turns clipping off.",
        panel=OPTIMIZATION,
        ge=0,
    )
    layerwise_lr_decay: float = option(
        1.0,
        help="The factor of the learning rate from one layer to the one below; the head has the "
        "whole rate, and the embeddings the lowest.",
        panel=OPTIMIZATION,
        ge=0.01,
        le=1,
    )
    gradient_checkpointing: str = option(
        "none",
        help="What the backward pass recomputes to save memory: whole layers (full; a third more "
        "time), or all of a layer but its attention (attention).",
        panel=OPTIMIZATION,
        choices=GRADIENT_CHECKPOINTING,
    )

    # Devices
    distributed: bool | None = option(
        None,
        help="Train with several processes, which each run this command. By default, SLURM, Open "
        "MPI, TPU pods and JAX's environment variables say so.",
        panel=DEVICES,
    )
    coordinator_address: str | None = option(
        None,
        help="The host and port of process 0, at which the processes meet, such as node1:12345. By "
        "default, the environment says so.",
        panel=DEVICES,
    )
    num_processes: int | None = option(
        None,
        help="The number of processes. By default, the environment says so.",
        panel=DEVICES,
        ge=1,
    )
    process_id: int | None = option(
        None,
        help="The index of this process, from 0. By default, the environment says so.",
        panel=DEVICES,
        ge=0,
    )

    # Run
    output_dir: str = option(
        REQUIRED, help="The directory of the run and of the trained model.", panel=RUN
    )
    overwrite_output_dir: bool = option(
        False, help="Replace an earlier run in output_dir.", panel=RUN
    )
    seed: int = option(
        0,
        help="The seed of new parameters, the order of examples, masking and dropout.",
        panel=RUN,
        ge=0,
        le=2**31 - 1,
    )
    eval_steps: int | None = option(
        None,
        help="The number of optimizer steps between evaluations; by default, one epoch.",
        panel=RUN,
        ge=1,
    )
    save_steps: int = option(
        500, help="The number of optimizer steps between checkpoints.", panel=RUN, ge=1
    )
    logging_steps: int = option(
        10, help="The number of optimizer steps between logs.", panel=RUN, ge=1
    )
    early_stopping_patience: int | None = option(
        None,
        help="The number of evaluations without a better result after which training stops.",
        panel=RUN,
        ge=1,
    )
    metric_for_best_model: str | None = option(
        None,
        help="The metric that decides which model is saved; by default, that of the task.",
        panel=RUN,
    )

    @property
    def has_validation_data(self) -> bool:
        """Whether the run has validation data, and therefore evaluates."""
        given = bool(self.validation_files) or self.validation_split is not None
        return given or (self.validation_fraction > 0 and not self.is_streaming)

    @property
    def is_streaming(self) -> bool:
        """Whether the training data are read while training."""
        return getattr(self, "streaming", False)

    def as_dict(self) -> dict[str, Any]:
        """Returns the options as plain values, starting with the name of the task."""
        return {"task": self.task, **super().as_dict()}

    @pydantic.model_validator(mode="after")
    def _check(self) -> "TrainingArguments":
        check_training_arguments(self)
        return self


def train_options_class(task: str) -> type[TrainingArguments]:
    """Returns the options class of a run for a task: `TrainingArguments` and the task's options.

    Raises:
      OptionError: if there is no task of this name.
    """
    return typing.cast(type[TrainingArguments], command_options(task, "train", TrainingArguments))


def train_options(task: str, **values: Any) -> TrainingArguments:
    """Returns the options of a run.

        train_options("masked-lm", train_files=["speeches"], output_dir="pretrained")

    Args:
      task: The name of the task, such as "masked-lm".
      **values: The options of `TrainingArguments` and of the task.

    Raises:
      OptionError: if an option is missing, unknown, of another task, or without effect, or if a
        value is not allowed.
    """
    return train_options_class(task)(**values)
