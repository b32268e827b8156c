"""Every option of a training run, in one typed dataclass: flags, YAML and Python read the same."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax_bigbird.pretrained import DEFAULT_MODEL
from flax_bigbird.tasks.errors import OptionError as OptionError
from flax_bigbird.tasks.options import (
    DATA,
    LARGE,
    MODEL,
    RUN,
    STEPS,
    TASK,
    RowOptions,
    check_names,
    check_stride,
    hints,
    kinds,
    option,
)

TASKS = (
    "causal-lm",
    "masked-lm",
    "multiple-choice",
    "next-sentence",
    "question-answering",
    "sequence-classification",
    "token-classification",
)
PRETRAINING = ("causal-lm", "masked-lm", "next-sentence")
PACKED_TASKS = ("causal-lm", "masked-lm")
SCHEDULES = ("linear", "cosine", "constant")
DTYPES = ("float32", "bfloat16")
MODES = ("single-label", "multi-label", "regression")
OPTIMIZER = "Optimisation"


@dataclass(frozen=True, kw_only=True)
class LabelledOptions(RowOptions):
    """Rows with what is to be learned or measured."""

    label_column: str = option("label", "Column of the label.", DATA)
    tags_column: str = option("tags", "Column of lists of the words' tags.", DATA)

    mode: str | None = option(
        None,
        "Classification: what a label is; default: numbers with a point are regression, lists "
        "multi-label, else single-label.",
        TASK,
        choices=MODES,
    )
    mask_rate: float = option(
        0.15, "Masked LM: share of the tokens that are targets.", TASK, between=(0.01, 0.9)
    )
    whole_words: bool = option(True, "Masked LM: mask words, not pieces.", TASK)
    random_positions: bool = option(
        False,
        "Masked LM: texts shorter than the position table start anywhere in it, so that short "
        "steps train all of it.",
        TASK,
    )
    dtype: str = option("float32", "Of the computation.", MODEL, choices=DTYPES)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(LabelledOptions):
    """What `bigbird train` and `train()` do; saved with the run as `options.yaml`.

    Raises:
      OptionError: a value that is not allowed, before anything is read or written.
    """

    task: str = option(dataclasses.MISSING, "What to train for.", TASK, choices=TASKS)
    output_dir: str = option(dataclasses.MISSING, "Folder of the run and its model.", RUN)

    train_files: list[str] = option(
        [], "JSONL, CSV or Parquet files, or folders of text files, to train on.", DATA
    )
    validation_files: list[str] = option([], "The same, to validate on.", DATA)
    dataset: str | None = option(None, "A `datasets` id or script folder, for files.", DATA)
    dataset_name: str | None = option(None, "That dataset's configuration.", DATA)
    train_split: str = option("train", "Its split to train on.", DATA)
    validation_split: str | None = option(None, "Its split to validate on.", DATA)
    validation_share: float = option(
        0.1,
        "Of the documents, held out where no validation data are given.",
        DATA,
        between=(0, 0.9),
    )

    model: str | None = option(
        None,
        f"Folder, shipped model or Hub id to start from; default: {DEFAULT_MODEL} to fine-tune, a "
        "new model to pretrain, or where tokenizer or model_config say what it is like.",
        MODEL,
    )
    model_config: dict[str, Any] = option(
        {},
        "Keys of BigBirdConfig, as key=value; of a new model, or changes to a loaded one.",
        MODEL,
    )
    tokenizer: str | None = option(None, "Folder or Hub id; default: the model's own.", MODEL)
    vocabulary_size: int = option(
        8000,
        "Pieces of a vocabulary trained where there is no tokenizer.",
        MODEL,
        between=(20, 2**31 - 1),
    )
    random_attention: str = option(
        "fixed", "Rule of the random blocks, stored with the model.", MODEL
    )

    packing: bool = option(
        False,
        "Language models: short documents share rows of max_length, none reads another.",
        STEPS,
    )
    gradient_accumulation: int = option(1, "Batches a step.", STEPS, between=(1, LARGE))
    epochs: float = option(3.0, "Passes over the training data.", STEPS, between=(1e-6, LARGE))
    max_steps: int | None = option(
        None, "Steps, in the place of epochs.", STEPS, between=(1, LARGE)
    )

    learning_rate: float = option(
        3e-5, "The highest, after the warm-up.", OPTIMIZER, between=(0, 10)
    )
    schedule: str = option("linear", "After the warm-up.", OPTIMIZER, choices=SCHEDULES)
    warmup_share: float = option(
        0.1, "Of the steps, in which the rate rises from 0.", OPTIMIZER, between=(0, 1)
    )
    weight_decay: float = option(0.01, "AdamW's, of matrices only.", OPTIMIZER, between=(0, 10))
    adam_b1: float = option(0.9, "AdamW's average of gradients.", OPTIMIZER, between=(0, 0.9999999))
    adam_b2: float = option(0.999, "AdamW's average of squares.", OPTIMIZER, between=(0, 0.9999999))
    adam_epsilon: float = option(1e-8, "AdamW's epsilon.", OPTIMIZER, between=(0, 1))
    clip_norm: float = option(
        1.0, "Global norm that gradients are clipped to; 0: not.", OPTIMIZER, between=(0, LARGE)
    )
    gradient_checkpointing: bool = option(
        False, "Recompute layers in the backward pass: less memory, a third more time.", OPTIMIZER
    )
    keep_attention: bool = option(
        False, "With gradient_checkpointing: all but attention, for a state a layer.", OPTIMIZER
    )

    seed: int = option(0, "Of parameters, order, masks and dropout.", RUN, between=(0, 2**31 - 1))
    evaluate_every: int | None = option(
        None, "Steps; default: once an epoch.", RUN, between=(1, LARGE)
    )
    save_every: int = option(500, "Steps between checkpoints of the run.", RUN, between=(1, LARGE))
    log_every: int = option(10, "Steps between lines of metrics.jsonl.", RUN, between=(1, LARGE))
    patience: int | None = option(
        None,
        "Evaluations without a better result after which training stops.",
        RUN,
        between=(1, LARGE),
    )
    best_metric: str | None = option(
        None, "By which the best model is kept; default: the task's.", RUN
    )
    overwrite: bool = option(False, "Replace another run in output_dir.", RUN)

    @property
    def start(self) -> str | None:
        """The model to start from; None for a new one."""
        if self.model or self.task in PRETRAINING or self.tokenizer or self.model_config:
            return self.model
        return DEFAULT_MODEL

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.train_files) == bool(self.dataset):
            given = "both" if self.dataset else "neither"
            raise OptionError(
                f"the training data must be train_files or a dataset; got {given}: give one"
            )
        if self.validation_split and not self.dataset:
            raise OptionError(
                f"validation_split belongs to a dataset; got {self.validation_split!r} without "
                "one: use validation_files"
            )
        if self.packing and self.task not in PACKED_TASKS:
            raise OptionError(
                f"packing is for {' and '.join(PACKED_TASKS)}; got it for {self.task}: leave it out"
            )
        if self.max_length and self.task == "question-answering":
            check_stride(self)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(LabelledOptions):
    """What `bigbird evaluate` and `evaluate()` do.

    Raises:
      OptionError: a value that is not allowed, before anything is read.
    """

    model: str = option(dataclasses.MISSING, "Folder or Hub id of the model.", MODEL)
    files: list[str] = option([], "JSONL, CSV or Parquet files, or folders of text files.", DATA)
    dataset: str | None = option(None, "A `datasets` id or folder, for files.", DATA)
    dataset_name: str | None = option(None, "That dataset's configuration.", DATA)
    split: str = option("test", "Its split.", DATA)
    task: str | None = option(None, "Default: the one the model was made for.", TASK, choices=TASKS)
    model_config: dict[str, Any] = option(
        {}, "Changes to the model's configuration, as key=value.", MODEL
    )
    output: str | None = option(None, "JSON file for the metrics.", RUN)

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.files) == bool(self.dataset):
            given = "both" if self.dataset else "neither"
            raise OptionError(f"the data must be files or a dataset; got {given}: give one")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The options that a YAML file gives; numbers such as `3e-5` are numbers.

    Raises:
      OptionError: the file is missing or no mapping, or holds a key that is no option.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"the file of options must be readable; {path} is not ({error})"
        ) from error
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OptionError(f"the file of options must be YAML; {path} is not: {error}") from error
    if not isinstance(found, dict):
        raise OptionError(f"the file of options must be a mapping; {path} holds {found!r}")
    names = [spec.name for spec in dataclasses.fields(TrainOptions)]
    rule = f"{path} must hold options of a run"
    check_names(map(str, found), names, rule, "see bigbird train --help")
    for name, value in found.items():
        # YAML 1.1 reads 3e-5 as text: only 3.0e-5 is a number to it.
        if isinstance(value, str) and float in kinds(hints(TrainOptions)[name]):
            try:
                found[name] = float(value)
            except ValueError:
                continue  # the type check tells
    return found


def to_yaml(options: TrainOptions) -> str:
    """The options as YAML, in the order of their definition."""
    import yaml

    return yaml.safe_dump(options.as_dict(), sort_keys=False, allow_unicode=True)
