"""The files of cross-encoders of sentence-transformers beside a checkpoint.

A cross-encoder is a sequence classifier that reads a query and a document together. Its files say
how the logit becomes a score. Versions before 6 of sentence-transformers keep this in `config.json`
alone.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax_bigbird.checkpoint.atomic import atomic_write_text
from flax_bigbird.checkpoint.embedding_layers import ACTIVATIONS
from flax_bigbird.checkpoint.errors import CheckpointError
from flax_bigbird.checkpoint.hub import Source
from flax_bigbird.checkpoint.sentence_transformers import (
    CONFIG_FILE,
    MODULES_FILE,
    TRANSFORMER_FILE,
    load_json,
    load_mapping,
)

SIGMOID = "torch.nn.modules.activation.Sigmoid"
_MODEL_TYPE = "CrossEncoder"
_MODULE = "sentence_transformers.base.modules.transformer.Transformer"


@dataclasses.dataclass(frozen=True)
class CrossEncoderSettings:
    """How a sequence classifier scores pairs of texts.

    Attributes:
      activation: The name of the class in PyTorch of the function from the logit to the score.
      prompts: The texts that may be put before a query, by name.
      default_prompt_name: The name of the prompt that is used unless another is given.
      max_seq_length: The maximum number of tokens of a pair.
    """

    activation: str = SIGMOID
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default_prompt_name: str | None = None
    max_seq_length: int | None = None


def load_cross_encoder_settings(source: Source) -> CrossEncoderSettings | None:
    """Loads the settings of a cross-encoder; None if no file says that the checkpoint is one.

    Raises:
      CheckpointError: if a file is broken, or the cross-encoder computes what is not known.
    """
    config = load_mapping(source, CONFIG_FILE)
    model = load_mapping(source, "config.json")
    former = model.get("sentence_transformers")  # of versions 4 and 5
    former = former if isinstance(former, dict) else {}
    oldest = model.get("sbert_ce_default_activation_function")  # of versions before 4
    if config.get("model_type") != _MODEL_TYPE and not former and oldest is None:
        return None
    _check_modules(source)
    given = (config.get("activation_fn"), former.get("activation_fn"), oldest)
    activation = _normalize(next((name for name in given if name is not None), SIGMOID))
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f"the activation of a cross-encoder must be one of {', '.join(ACTIVATIONS)}; {source} "
            f"has {activation!r}: it can only be used with sentence-transformers"
        )
    return CrossEncoderSettings(
        activation=activation,
        prompts=config.get("prompts") or {},
        default_prompt_name=config.get("default_prompt_name"),
        max_seq_length=load_mapping(source, TRANSFORMER_FILE).get("max_seq_length"),
    )


def save_cross_encoder_settings(folder: Path, settings: CrossEncoderSettings) -> None:
    """Writes the files of a cross-encoder beside a checkpoint that is in `folder`.

    Args:
      folder: The folder.
      settings: The settings.
    """
    transformer: dict[str, Any] = {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "scores",
    }
    if settings.max_seq_length is not None:
        transformer["max_seq_length"] = settings.max_seq_length
    files = {
        TRANSFORMER_FILE: transformer,
        CONFIG_FILE: {
            "model_type": _MODEL_TYPE,
            "activation_fn": settings.activation,
            "prompts": dict(settings.prompts),
            "default_prompt_name": settings.default_prompt_name,
        },
        MODULES_FILE: [{"idx": 0, "name": "0", "path": "", "type": _MODULE}],
    }
    for name, content in files.items():
        atomic_write_text(folder / name, json.dumps(content, indent=2, ensure_ascii=False))


def _check_modules(source: Source) -> None:
    modules = load_json(source, MODULES_FILE)
    if modules is None:
        return
    entries = modules if isinstance(modules, list) else []
    kinds = [str(m.get("type", "")).rpartition(".")[2] for m in entries if isinstance(m, dict)]
    if kinds != ["Transformer"] or entries[0].get("path"):
        raise CheckpointError(
            f"{MODULES_FILE} of a cross-encoder must hold the module Transformer alone, at the "
            f"top of the folder; {source} has {', '.join(kinds) or 'none'}: it can only be used "
            "with sentence-transformers"
        )


def _normalize(name: Any) -> str:
    """Returns the name of an activation's class with the path that every version knows."""
    short = str(name).rpartition(".")[2]
    full = (known for known in ACTIVATIONS if known.rpartition(".")[2] == short)
    return next(full, str(name)) if str(name).startswith("torch.nn.") else str(name)
