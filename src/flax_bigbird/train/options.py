"""Every option of a training run, in one typed dataclass: flags, YAML and Python read the same."""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TASKS = (
    "masked-lm",
    "question-answering",
    "sequence-classification",
    "token-classification",
)
SCHEDULES = ("linear", "cosine", "constant")
DTYPES = ("float32", "bfloat16")
MODES = ("single-label", "multi-label", "regression")


class OptionError(ValueError):
    """An option whose value is not allowed: the rule, the value, the remedy."""


def option(default: Any, help: str, group: str, **more: Any) -> Any:
    """A field with its help text and the group it is shown in; mutable defaults are copied."""
    metadata = {"help": help, "group": group, **more}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


_DATA, _MODEL, _TASK = "Data", "Model", "Task"
_STEPS, _OPTIMIZER, _RUN = "Length and batches", "Optimisation", "Run"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What `bigbird train` and `train()` do; saved with the run as `options.yaml`.

    Raises:
      OptionError: a value that is not allowed, before anything is read or written.
    """

    task: str = field(metadata={"help": "What to train for.", "group": _TASK, "choices": TASKS})
    output_dir: str = field(metadata={"help": "Folder of the run and its model.", "group": _RUN})

    train_files: list[str] = option(
        [], "JSONL, CSV or Parquet files, or folders of text files, to train on.", _DATA
    )
    validation_files: list[str] = option([], "The same, to validate on.", _DATA)
    dataset: str | None = option(None, "A `datasets` id or script folder, for files.", _DATA)
    dataset_name: str | None = option(None, "That dataset's configuration.", _DATA)
    train_split: str = option("train", "Its split to train on.", _DATA)
    validation_split: str | None = option(None, "Its split to validate on.", _DATA)
    validation_share: float = option(
        0.1, "Of the documents, held out where no validation data are given.", _DATA
    )
    text_column: str = option("text", "Column of the text.", _DATA)
    text_pair_column: str | None = option(None, "Column of a second text.", _DATA)
    label_column: str = option("label", "Column of the label.", _DATA)

    words_column: str = option("tokens", "Column of lists of words, for tags.", _DATA)
    tags_column: str = option("tags", "Column of lists of their tags.", _DATA)

    model: str | None = option(None, "Folder or Hub id to start from; none: a new model.", _MODEL)
    model_config: dict[str, Any] = option(
        {},
        "Keys of BigBirdConfig, as key=value; of a new model, or changes to a loaded one.",
        _MODEL,
    )
    tokenizer: str | None = option(None, "Folder or Hub id; default: the model's own.", _MODEL)
    vocabulary_size: int = option(
        8000, "Pieces of a vocabulary trained where there is no tokenizer.", _MODEL
    )
    random_attention: str = option(
        "fixed", "Rule of the random blocks, stored with the model.", _MODEL
    )

    mode: str | None = option(
        None,
        "Classification: what a label is; default: numbers with a point are regression, lists "
        "multi-label, else single-label.",
        _TASK,
        choices=MODES,
    )
    mask_rate: float = option(0.15, "Masked LM: share of the tokens that are targets.", _TASK)
    whole_words: bool = option(True, "Masked LM: mask words, not pieces.", _TASK)
    stride: int = option(
        256, "Question answering: tokens that neighbouring windows of a context share.", _TASK
    )
    longest_answer: int = option(30, "Question answering: pieces of an answer.", _TASK)
    random_positions: bool = option(
        False,
        "Masked LM: texts shorter than the position table start anywhere in it, so that short "
        "steps train all of it.",
        _TASK,
    )

    max_length: int = option(4096, "Tokens a document; longer ones are cut or windowed.", _STEPS)
    tokens_per_batch: int = option(
        16384, "Tokens a step, before accumulation: rows times the length of their bucket.", _STEPS
    )
    smallest_bucket: int = option(
        128, "Lengths are padded to this, or to its doubles up to max_length.", _STEPS
    )
    gradient_accumulation: int = option(1, "Batches a step.", _STEPS)
    epochs: float = option(3.0, "Passes over the training data.", _STEPS)
    max_steps: int | None = option(None, "Steps, in the place of epochs.", _STEPS)

    learning_rate: float = option(3e-5, "The highest, after the warm-up.", _OPTIMIZER)
    schedule: str = option("linear", "After the warm-up.", _OPTIMIZER, choices=SCHEDULES)
    warmup_share: float = option(0.1, "Of the steps, in which the rate rises from 0.", _OPTIMIZER)
    weight_decay: float = option(0.01, "AdamW's, of matrices only.", _OPTIMIZER)
    adam_b1: float = option(0.9, "AdamW's average of gradients.", _OPTIMIZER)
    adam_b2: float = option(0.999, "AdamW's average of squares.", _OPTIMIZER)
    adam_epsilon: float = option(1e-8, "AdamW's epsilon.", _OPTIMIZER)
    clip_norm: float = option(1.0, "Global norm that gradients are clipped to; 0: not.", _OPTIMIZER)
    dtype: str = option("float32", "Of the computation.", _OPTIMIZER, choices=DTYPES)
    gradient_checkpointing: bool = option(
        False, "Recompute layers in the backward pass: less memory, a third more time.", _OPTIMIZER
    )

    seed: int = option(0, "Of parameters, order, masks and dropout.", _RUN)
    evaluate_every: int | None = option(None, "Steps; default: once an epoch.", _RUN)
    save_every: int = option(500, "Steps between checkpoints of the run.", _RUN)
    log_every: int = option(10, "Steps between lines of metrics.jsonl.", _RUN)
    patience: int | None = option(
        None, "Evaluations without a better result after which training stops.", _RUN
    )
    best_metric: str | None = option(
        None, "By which the best model is kept; default: the task's.", _RUN
    )
    overwrite: bool = option(False, "Replace another run in output_dir.", _RUN)

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            _check_type(spec.name, getattr(self, spec.name), _hints()[spec.name])
            choices = spec.metadata.get("choices")
            value = getattr(self, spec.name)
            if choices and value is not None and value not in choices:
                near = difflib.get_close_matches(str(value), choices, 1)
                remedy = f"did you mean {near[0]}?" if near else "choose one of them"
                raise OptionError(
                    f"{spec.name} must be one of {', '.join(choices)}; got {value!r}: {remedy}"
                )
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                limits = f"between {low:g} and {high:g}" if high < _LARGE else f"at least {low:g}"
                raise OptionError(f"{name} must be {limits}; got {value:g}: change it")
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
        if self.smallest_bucket > self.max_length:
            object.__setattr__(self, "smallest_bucket", self.max_length)
        if self.tokens_per_batch < self.max_length:
            raise OptionError(
                f"tokens_per_batch must hold one document of max_length={self.max_length} tokens; "
                f"got {self.tokens_per_batch}: raise it, or lower max_length"
            )

        if self.task == "question-answering" and self.stride >= self.max_length // 2:
            raise OptionError(
                f"stride must be less than half of max_length={self.max_length}; got "
                f"{self.stride}: lower it"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as YAML holds them."""
        return dataclasses.asdict(self)

    @property
    def buckets(self) -> tuple[int, ...]:
        """The lengths that documents are padded to, in tokens, ascending."""
        lengths, length = [], self.smallest_bucket
        while length < self.max_length:
            lengths.append(length)
            length *= 2
        return (*lengths, self.max_length)


_LARGE = 2**53
_RANGES = (
    ("validation_share", 0, 0.9),
    ("vocabulary_size", 20, 2**31 - 1),
    ("mask_rate", 0.01, 0.9),
    ("stride", 0, _LARGE),
    ("longest_answer", 1, _LARGE),
    ("max_length", 8, _LARGE),
    ("tokens_per_batch", 8, _LARGE),
    ("smallest_bucket", 8, _LARGE),
    ("gradient_accumulation", 1, _LARGE),
    ("epochs", 1e-6, _LARGE),
    ("max_steps", 1, _LARGE),
    ("learning_rate", 0, 10),
    ("warmup_share", 0, 1),
    ("weight_decay", 0, 10),
    ("adam_b1", 0, 0.9999999),
    ("adam_b2", 0, 0.9999999),
    ("adam_epsilon", 0, 1),
    ("clip_norm", 0, _LARGE),
    ("seed", 0, 2**31 - 1),
    ("evaluate_every", 1, _LARGE),
    ("save_every", 1, _LARGE),
    ("log_every", 1, _LARGE),
    ("patience", 1, _LARGE),
)


def _hints() -> dict[str, Any]:
    return typing.get_type_hints(TrainOptions)


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raises unless `value` is what the annotation says; a whole number passes for a float."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in allowed:
        origin = typing.get_origin(kind) or kind
        inner = typing.get_args(kind)[0] if origin is list else None
        if origin is float and type(value) in (int, float):
            return
        fits = type(value) is origin  # True is no int here
        if fits and (inner is None or all(type(item) is inner for item in value)):
            return
    names = [getattr(kind, "__name__", str(kind)) for kind in allowed if kind is not type(None)]
    raise OptionError(f"{name} must be of type {' or '.join(names)}; got {value!r}: change it")


def check_names(found: typing.Iterable[str], where: str) -> None:
    """Raises `OptionError` for names that are no options, with the nearest that is."""
    names = [spec.name for spec in dataclasses.fields(TrainOptions)]
    for name in found:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            remedy = f"did you mean {near[0]}?" if near else "see bigbird train --help"
            raise OptionError(f"{where} must hold options of a run; got {name!r}: {remedy}")


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
    check_names(map(str, found), str(path))
    for name, value in found.items():
        # YAML 1.1 reads 3e-5 as text: only 3.0e-5 is a number to it.
        if isinstance(value, str) and float in _kinds(name):
            try:
                found[name] = float(value)
            except ValueError:
                continue  # the type check tells
    return found


def _kinds(name: str) -> tuple[Any, ...]:
    hint = _hints()[name]
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def to_yaml(options: TrainOptions) -> str:
    """The options as YAML, in the order of their definition."""
    import yaml

    return yaml.safe_dump(options.as_dict(), sort_keys=False, allow_unicode=True)
