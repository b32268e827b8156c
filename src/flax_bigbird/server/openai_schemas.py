"""The requests and answers in the form of OpenAI."""

from typing import Annotated, Any, Literal

from pydantic import Field

from flax_bigbird.server.schemas import Body, Items, TokenIds


class EmbeddingsRequest(Body):
    """Texts to embed, in the form of OpenAI."""

    input: str | TokenIds | Annotated[Items[str | TokenIds], Field(min_length=1)] = Field(
        description="A text or several; a list of integers stands for a text's token ids, which "
        "are those of the model's own tokenizer."
    )
    model: str | None = Field(
        default=None, description="The name of a served model; by default, the first."
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


class Embedding(Body):
    """The vector of a text."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(Body):
    """How many tokens were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Body):
    """The vectors of all texts of a request."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class Model(Body):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(Body):
    """All served models."""

    object: Literal["list"] = "list"
    data: list[Model]


class OpenAIError(Body):
    """Why a request was not answered, in the form of OpenAI."""

    error: dict[str, Any]
