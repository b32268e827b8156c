"""The requests and answers in the forms of text-embeddings-inference.

Its clients, and those of the Hugging Face Inference API, send these fields. A field that a request
does not know is an error, so that nothing is silently ignored.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

Items = Annotated[list[T], Field(fail_fast=True)]
"""A list in a request. The errors of its items would take a thousand times their memory, so that
only the first one is reported."""
TokenIds = Annotated[Items[int], Field(min_length=1)]
Truncate = Annotated[
    bool | None,
    Field(description="Whether to read only the start of texts that exceed the model."),
]
TruncationDirection = Annotated[
    Literal["right", "Right", "left", "Left"] | None, Field(description="Only right.")
]


class Body(BaseModel):
    """The base of all requests: strict types, finite numbers, and no unknown fields."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class ModelBody(Body):
    """A request that may name one of several models of a task."""

    model: str | None = Field(
        default=None, description="The name of a served model; by default, the first for the task."
    )


class EmbedRequest(ModelBody):
    """Texts to embed."""

    inputs: str | TokenIds | Items[str | TokenIds] = Field(
        description="A text or several; a list of integers stands for a text's token ids."
    )
    normalize: bool | None = Field(
        default=True, description="Whether to scale the vectors to length 1."
    )
    prompt_name: str | None = Field(
        default=None, description="The name of the model's prompt to put before each text."
    )
    truncate: Truncate = None
    truncation_direction: TruncationDirection = None
    dimensions: int | None = Field(
        default=None, ge=1, description="The number of dimensions of a vector that are kept."
    )
    encoding_format: Literal["float"] | None = None


EmbedResponse = list[list[float]]


class SimilarityInput(Body):
    """A text, and others to compare it with."""

    source_sentence: str
    sentences: Annotated[Items[str], Field(min_length=1)]


class SimilarityParameters(Body):
    """How to embed the texts of a comparison."""

    prompt_name: str | None = None
    truncate: Truncate = None
    truncation_direction: TruncationDirection = None


class SimilarityRequest(ModelBody):
    """Texts to compare."""

    inputs: SimilarityInput
    parameters: SimilarityParameters | None = None


SimilarityResponse = list[float]


class PredictParameters(Body):
    """The parameters of the Hugging Face Inference API."""

    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = Field(
        default=None,
        description="`none` returns logits; otherwise, the function follows from the model.",
    )
    top_k: int | None = Field(default=None, ge=1, description="The number of labels to return.")


class PredictRequest(ModelBody):
    """Texts, or pairs of texts, to classify.

    With `parameters`, which the Hugging Face Inference API has, a single text is answered by a list
    with one list of labels, as there; without them, by the list of labels.
    """

    inputs: str | Items[str | Items[str]] = Field(
        description="A text; a pair of texts; or a list of lists of one or two texts each."
    )
    raw_scores: bool = Field(default=False, description="Whether to return logits.")
    truncate: Truncate = None
    truncation_direction: TruncationDirection = None
    parameters: PredictParameters | None = None


class Prediction(Body):
    """The score of a label."""

    label: str
    score: float


PredictResponse = list[Prediction] | list[list[Prediction]]


class RerankRequest(ModelBody):
    """A query, and texts to sort by their relevance to it."""

    query: str
    texts: Annotated[Items[str], Field(min_length=1)]
    raw_scores: bool = Field(default=False, description="Whether to return logits.")
    return_text: bool = Field(
        default=False, description="Whether to repeat the texts in the answer."
    )
    truncate: Truncate = None
    truncation_direction: TruncationDirection = None


class Rank(Body):
    """A text of a request, by its index."""

    index: int
    score: float
    text: str | None = None


RerankResponse = list[Rank]


class TokenizeRequest(ModelBody):
    """Texts to tokenize."""

    inputs: str | Items[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class SimpleToken(Body):
    """A token, with its characters `[start, stop)` in the text; special tokens have none."""

    id: int
    text: str
    special: bool
    start: int | None = None
    stop: int | None = None


TokenizeResponse = list[list[SimpleToken]]


class ModelInfo(Body):
    """A served model."""

    name: str
    task: str
    max_input_length: int = Field(description="The number of tokens of a window.")
    embedding_dimension: int | None = None
    labels: list[str] | None = None
    num_layers: int
    num_heads: int
    block_size: int
    can_show_attention: bool


class Info(Body):
    """What is served, and its limits; the fields of text-embeddings-inference are first."""

    model_id: str
    model_sha: str | None = None
    model_dtype: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None = None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None = None
    docker_label: str | None = None
    models: list[ModelInfo]


class ErrorResponse(Body):
    """Why a request was not answered."""

    error: str
    error_type: str
