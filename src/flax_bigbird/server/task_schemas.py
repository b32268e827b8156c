"""The requests and answers of the tasks that text-embeddings-inference does not have.

`inputs` and `parameters` are those of the Hugging Face Inference API, so that its clients can be
used; `/generate` has the forms of text-generation-inference.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from flax_bigbird.server.schemas import Body, Items, ModelBody, SimpleToken

Texts = str | Items[str]


class QuestionInputs(Body):
    """A question, and the text that answers it."""

    question: str
    context: str


class AnswerParameters(Body):
    """How to choose the answers."""

    top_k: int | None = Field(
        default=None, ge=1, le=100, description="The number of answers to return."
    )
    max_answer_len: int | None = Field(
        default=None, ge=1, description="The maximum number of tokens of an answer."
    )
    handle_impossible_answer: bool | None = Field(
        default=None,
        description="Whether there may be no answer; by default, as the model was trained.",
    )


class AnswerRequest(ModelBody):
    """A question and a context of any length, or both in `inputs`."""

    question: str | None = None
    context: str | None = None
    inputs: QuestionInputs | None = None
    parameters: AnswerParameters | None = None

    @model_validator(mode="after")
    def _check_one_form(self) -> "AnswerRequest":
        both = self.question is not None and self.context is not None
        neither = self.question is None and self.context is None
        if not (both and self.inputs is None) and not (neither and self.inputs is not None):
            raise ValueError("give question and context, or inputs with both of them")
        return self


class AnswerSpan(Body):
    """A part of the context, `context[start:end]`."""

    answer: str
    start: int
    end: int
    score: float = Field(description="The sum of the logits of the start and of the end.")


class AnswerResponse(Body):
    """The best answers, the best first; with `inputs`, it is a span or a list of spans."""

    answers: list[AnswerSpan]
    no_answer_score: float = Field(description="The same sum for no answer.")
    has_answer: bool = Field(description="Whether the model prefers the first answer to none.")
    num_windows: int = Field(description="In how many windows the context was read.")


class TagParameters(Body):
    """How words become entities."""

    aggregation_strategy: Literal["none", "simple"] | None = Field(
        default=None, description="simple, the default, returns entities, and none returns words."
    )
    ignore_labels: Items[str] | None = Field(
        default=None, description="The tags of words to leave out with none; by default, O."
    )


class TagRequest(ModelBody):
    """Texts whose entities are to be found."""

    inputs: Texts
    parameters: TagParameters | None = None


class Entity(Body):
    """An entity, or a word with a tag, `text[start:end]`."""

    entity_group: str | None = None
    entity: str | None = None
    score: float
    word: str
    start: int
    end: int
    index: int | None = None


TagResponse = list[Entity] | list[list[Entity]]


class FillMaskParameters(Body):
    """How many tokens to return."""

    top_k: int | None = Field(default=None, ge=1)


class FillMaskRequest(ModelBody):
    """Texts with `[MASK]` where tokens are to be predicted."""

    inputs: Texts
    top_k: int | None = Field(default=None, ge=1)
    parameters: FillMaskParameters | None = None


class FilledMask(Body):
    """A token for a mask, and the text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


FillMaskResponse = list[FilledMask] | list[list[FilledMask]] | list[Any]


class GenerateParameters(Body):
    """How to continue a text. Without `do_sample`, a temperature or `top_p`, it is greedy."""

    max_new_tokens: int | None = Field(default=None, ge=1)
    do_sample: bool | None = None
    temperature: float | None = Field(default=None, gt=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    stop: Annotated[Items[str], Field(max_length=8)] | None = Field(
        default=None, description="Texts that end the continuation."
    )
    return_full_text: bool | None = None
    details: bool | None = None


class GenerateRequest(ModelBody):
    """A text to continue."""

    inputs: str
    parameters: GenerateParameters | None = None
    stream: bool | None = Field(
        default=None, description="Whether to send the tokens one by one, as server-sent events."
    )


class GenerateResponse(Body):
    """The continuation. A stream has an event per token, the last one with the whole text."""

    generated_text: str
    details: dict[str, Any] | None = None


class AttentionRequest(ModelBody):
    """A text, and a token of it; without a token, the map between blocks is returned."""

    inputs: str
    query: str | None = Field(
        default=None, description="A question that is put before the text, as for /answer."
    )
    window: int = Field(
        default=0, ge=0, description="The window of a text that is longer than the model."
    )
    position: int | None = Field(
        default=None, ge=0, description="The position of the token; that of [CLS] is 0."
    )
    character: int | None = Field(
        default=None, ge=0, description="A character of the text, instead of the position."
    )
    layers: Annotated[Items[int], Field(min_length=1)] | None = Field(
        default=None,
        description="The indices of layers; by default, all for a token, and the last for a map.",
    )
    heads: Annotated[Items[int], Field(min_length=1)] | None = Field(
        default=None, description="The indices of heads; by default, all."
    )
    average_heads: bool = Field(
        default=False, description="Whether to return the mean of all heads instead of each."
    )
    top_k: int = Field(
        default=32, ge=1, le=1024, description="The number of tokens to return of each head."
    )
    include_tokens: bool = Field(
        default=False, description="Whether to return all tokens with their characters."
    )


class AttentionHead(Body):
    """One head: what the token reads and what reads it, or the blocks that each block reads.

    Positions and blocks are parallel to weights and to kinds: `g` for global blocks, `w` for those
    of the window, `r` for random ones, and `f` where a row reads everything.
    """

    head: int | None = Field(description="The index; null for the mean of all heads.")
    reads: dict[str, Any] | None = None
    read_by: dict[str, Any] | None = None
    rows: list[dict[str, Any]] | None = None


class AttentionLayer(Body):
    """The heads of a layer."""

    layer: int
    heads: list[AttentionHead]


class AttentionResponse(Body):
    """The attention of a text, without an array of tokens times tokens."""

    num_tokens: int
    num_unread_tokens: int = Field(description="The tokens of the text in other windows.")
    num_windows: int
    window: int
    block_size: int
    num_blocks: int
    position: int | None = None
    tokens: list[SimpleToken] | None = None
    layers: list[AttentionLayer]
