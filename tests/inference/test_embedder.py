"""Vectors of texts and of their chunks equal references that NumPy computes from hidden states."""

import json

import jax
import numpy as np
import pytest
from tiny_checkpoints import POSITIONS, sentence

from flax_bigbird.checkpoint.sentence_transformers import EmbeddingModules
from flax_bigbird.data.errors import UnknownTokensWarning
from flax_bigbird.data.tokenization import tokenize_with_offsets
from flax_bigbird.data.windows import counted_windows
from flax_bigbird.inference import (
    DataError,
    OptionError,
    evaluate,
    load_embedder,
    load_predictor,
)
from flax_bigbird.inference.resolve import task_of_files
from flax_bigbird.inference.text_inputs import check_count

TOLERANCE = 2e-5
TEXTS = [sentence(n, length) for n, length in enumerate((1, 9, 40, 7, 90, 200))]


@pytest.fixture(scope="module")
def embedder(make_checkpoint):
    return load_embedder(make_checkpoint("FlaxBigBirdForMaskedLM"))


@pytest.fixture(scope="module")
def token_vectors(embedder):
    """Returns a function from a text to its tokens' vectors, `[n + 2, D]`, and their offsets.

    The vectors of tokens in several windows are those of the window in which they count.
    """
    model = embedder.predictor.model
    run = jax.jit(lambda ids: model(ids).last_hidden_state)
    tokenizer = embedder.tokenizer

    def compute(text: str):
        ids, offsets = tokenize_with_offsets(tokenizer, text)
        windows = counted_windows(len(ids), POSITIONS)
        vectors = np.zeros((len(ids) + 2, model.config.hidden_size))
        for window in windows:
            part = ids[window.start : window.stop]
            array = np.array([[tokenizer.cls_token_id, *part, tokenizer.sep_token_id]])
            states = np.asarray(run(array)[0], np.float64)
            first, last = window.first - window.start, window.last - window.start
            vectors[window.first + 1 : window.last + 1] = states[1 + first : 1 + last]
            if window is windows[0]:
                vectors[0] = states[0]
            if window is windows[-1]:
                vectors[-1] = states[-1]
        return vectors, offsets

    return compute


def test_the_vector_of_a_text_is_the_mean_of_its_tokens(embedder, token_vectors):
    """Of texts that fit in the model, and of longer ones, each token of which counts once."""
    vectors = embedder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 32)
    assert vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        tokens, _ = token_vectors(text)
        np.testing.assert_allclose(vector, tokens.mean(0), atol=TOLERANCE)


def test_other_modes_of_pooling(embedder, token_vectors):
    for text in TEXTS:
        tokens, _ = token_vectors(text)
        weights = np.arange(1, len(tokens) + 1)[:, None]
        expected = (tokens * weights).sum(0) / weights.sum()
        vector = embedder.encode(text, pooling_mode="weightedmean")
        np.testing.assert_allclose(vector, expected, atol=TOLERANCE)
    for mode, index in (("cls", 0), ("lasttoken", -1)):
        vectors = embedder.encode(TEXTS[:3], pooling_mode=mode)
        for text, vector in zip(TEXTS[:3], vectors, strict=True):
            expected = token_vectors(text)[0][index]
            np.testing.assert_allclose(vector, expected, atol=TOLERANCE)
        assert np.isfinite(embedder.encode(TEXTS[-1], pooling_mode=mode)).all()


@pytest.mark.parametrize(("size", "overlap"), [(1, 0), (8, 0), (8, 3), (50, 49), (10_000, 32)])
def test_chunks_of_tokens_are_means_of_the_tokens_of_the_document(
    embedder, token_vectors, size, overlap
):
    chunks = embedder.encode_chunks(TEXTS, chunk_size=size, chunk_overlap=overlap)
    for text, (vectors, spans) in zip(TEXTS, chunks, strict=True):
        tokens, offsets = token_vectors(text)
        inner = tokens[1:-1]
        starts = [0]
        while starts[-1] + size < len(inner):
            starts.append(starts[-1] + size - overlap)
        expected = [inner[start : start + size].mean(0) for start in starts]
        np.testing.assert_allclose(vectors, expected, atol=TOLERANCE)
        for start, (first, last) in zip(starts, spans, strict=True):
            part = offsets[start : start + size]
            assert text[first:last] == text[part[0][0] : part[-1][1]].strip()


@pytest.mark.filterwarnings("ignore::flax_bigbird.data.errors.UnknownTokensWarning")
def test_chunks_of_sentences(embedder, token_vectors):
    sentences = [sentence(n, 3 + 5 * n) + "." for n in range(6)]
    text = "  " + "\n\n".join(sentences) + " \n"
    vectors, spans = embedder.encode_chunks(text, by="sentence")
    assert [text[start:end] for start, end in spans] == sentences
    tokens, offsets = token_vectors(text.rstrip())
    for vector, (start, end) in zip(vectors, spans, strict=True):
        own = [n + 1 for n, (a, b) in enumerate(offsets) if a < end and b > start]
        np.testing.assert_allclose(vector, tokens[own].mean(0), atol=TOLERANCE)


def test_chunks_and_special_tokens_make_up_the_document(embedder, token_vectors):
    text = TEXTS[-1]
    vectors, _ = embedder.encode_chunks(text, chunk_size=1)
    tokens, _ = token_vectors(text)
    total = vectors.sum(0) + tokens[0] + tokens[-1]
    np.testing.assert_allclose(total / len(tokens), embedder.encode(text), atol=TOLERANCE)


def test_vectors_do_not_depend_on_what_texts_are_batched_with(embedder):
    together = embedder.encode(TEXTS)
    for batch_size in (1, 2, 3):
        np.testing.assert_allclose(
            embedder.encode(TEXTS[::-1], batch_size=batch_size)[::-1], together, atol=TOLERANCE
        )
    for text, vector in zip(TEXTS, together, strict=True):
        alone = embedder.encode(text)
        assert alone.shape == (32,)
        np.testing.assert_allclose(alone, vector, atol=TOLERANCE)
    padded = load_embedder(embedder.predictor.name, min_bucket_length=8)
    np.testing.assert_allclose(padded.encode(TEXTS), together, atol=TOLERANCE)


def test_prompts_and_prompts_that_are_left_out(embedder, token_vectors):
    prompted = embedder.encode(TEXTS[1], prompt="the ship ")
    np.testing.assert_allclose(prompted, embedder.encode("the ship " + TEXTS[1]), atol=TOLERANCE)
    vectors, spans = embedder.encode_chunks(TEXTS[1], chunk_size=4, prompt="the ship ")
    assert spans == embedder.encode_chunks(TEXTS[1], chunk_size=4).spans
    tokens, offsets = token_vectors("the ship " + TEXTS[1])
    first = 1 + sum(end <= len("the ship ") for _, end in offsets)
    np.testing.assert_allclose(vectors[0], tokens[first : first + 4].mean(0), atol=TOLERANCE)
    modules = EmbeddingModules(
        include_prompt=False, prompts={"query": "the ship "}, default_prompt_name="query"
    )
    task = type(embedder.task)(
        embedder.task.options, embedder.tokenizer, embedder.task.config, modules
    )
    other = type(embedder)(embedder.predictor.with_task(task))
    assert (other.prompts, other.default_prompt_name) == ({"query": "the ship "}, "query")
    for vector in (other.encode(TEXTS[1]), other.encode_query(TEXTS[1])):
        # As in sentence-transformers, the space at the end of the prompt counts as a token.
        np.testing.assert_allclose(vector, tokens[first + 1 :].mean(0), atol=TOLERANCE)
    with pytest.raises(OptionError, match=r"prompt_name must be one of .* query; got 'passage'"):
        other.encode("a", prompt_name="passage")


def test_the_prompt_of_the_loaded_model_is_kept_unless_a_call_gives_another(embedder):
    name = embedder.predictor.name
    prompted = load_embedder(name, prompt="the ship ", min_bucket_length=8)
    expected = embedder.encode("the ship " + TEXTS[1])
    np.testing.assert_allclose(prompted.encode(TEXTS[1]), expected, atol=TOLERANCE)
    chunks = prompted.encode_chunks(TEXTS[1], chunk_size=4).vectors
    expected = embedder.encode_chunks(TEXTS[1], chunk_size=4, prompt="the ship ").vectors
    np.testing.assert_allclose(chunks, expected, atol=TOLERANCE)
    for other in ("a cow ", ""):
        vector, expected = prompted.encode(TEXTS[1], prompt=other), other + TEXTS[1]
        np.testing.assert_allclose(vector, embedder.encode(expected), atol=TOLERANCE)
    with pytest.raises(OptionError, match="prompt_name must be one of the model's prompts"):
        prompted.encode(TEXTS[1], prompt_name="query")  # which excludes the loaded one


def test_normalization_and_truncation(embedder):
    full = embedder.encode(TEXTS)
    short = embedder.encode(TEXTS, truncate_dim=8)
    np.testing.assert_allclose(short, full[:, :8], atol=TOLERANCE)
    unit = embedder.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    expected = short / np.linalg.norm(short, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, atol=TOLERANCE)
    np.testing.assert_allclose(
        embedder.similarity(short, short), expected @ expected.T, atol=TOLERANCE
    )
    np.testing.assert_allclose(embedder.similarity_pairwise(full, full), 1, atol=TOLERANCE)


def test_truncated_documents(embedder):
    truncated = embedder.encode(TEXTS[-1], whole_documents=False)
    ids = embedder.tokenizer(TEXTS[-1], add_special_tokens=False, verbose=False)["input_ids"]
    beginning = TEXTS[-1][: tokenize_with_offsets(embedder.tokenizer, TEXTS[-1])[1][61][1]]
    assert len(ids) > 62
    np.testing.assert_allclose(truncated, embedder.encode(beginning), atol=TOLERANCE)


def test_forms_of_inputs_and_outputs(embedder):
    expected = embedder.encode(TEXTS[:2])
    for texts in (tuple(TEXTS[:2]), iter(TEXTS[:2]), np.array(TEXTS[:2])):
        np.testing.assert_array_equal(embedder.encode(texts), expected)
    as_list = embedder.encode(TEXTS[:2], convert_to_numpy=False)
    assert isinstance(as_list, list)
    np.testing.assert_array_equal(as_list, expected)
    assert isinstance(embedder.encode(TEXTS[:2], convert_to_tensor=True), jax.Array)
    assert embedder.encode([]).shape == (0, 32)
    assert embedder.get_sentence_embedding_dimension() == 32
    assert embedder.max_seq_length == POSITIONS
    vectors, spans = embedder.encode_chunks("")
    assert (vectors.shape, spans) == ((0, 32), [])
    assert np.isfinite(embedder.encode("")).all()


def test_texts_are_read_one_after_the_other(embedder, small_chunks):
    """The first vectors are there before the last texts are read."""
    num_read = 0

    def texts():
        nonlocal num_read
        for text in TEXTS:
            num_read += 1
            yield text

    answers = embedder.iterate_answers(texts())
    first = next(answers)
    assert num_read < len(TEXTS)
    np.testing.assert_allclose(
        [first["vector"], *(answer["vector"] for answer in answers)],
        embedder.encode(TEXTS),
        atol=TOLERANCE,
    )


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (None, "sentences must be a text or several; got None, of type NoneType: give texts"),
        (3, "sentences must be a text or several; got 3, of type int"),
        ({"text": "a"}, "sentences must be a text or several; got {'text': 'a'}, of type dict"),
        (["a", None], "that at index 1 is 'None', of type NoneType: convert"),
        (["a", 3.5], "that at index 1 is '3.5', of type float"),
        (b"text", r"sentences must be a text or several; got b'text', of type bytes"),
        (np.array("a"), r"sentences must be a text or several; got array.'a'"),
        (["a", "\ud800"], r"row 2: column 'text' must hold Unicode text; got the lone surrogate"),
    ],
)
def test_what_is_no_text_is_refused(embedder, sentences, message):
    with pytest.raises(DataError, match=message):
        embedder.encode(sentences)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"output_value": "token_embeddings"}, "output_value must be 'sentence_embedding'; got 't"),
        ({"precision": "int8"}, "precision must be 'float32'; got 'int8'"),
        ({"truncate_dim": 33}, "truncate_dim must be at most the 32 dimensions .*; got 33: lower"),
        ({"pooling_mode": "max"}, "pooling_mode must be one of mean, cls, .*; got 'max'"),
        ({"prompt_name": "query"}, "prompt_name must be one of .* none; got 'query'"),
        ({"chunk_tokens": 3}, "got an option of chunks: call encode_chunks"),
        ({"max_length": 16}, "belong to the loaded model; got max_length"),
        ({"stride": 3}, "stride is an option of question-answering; got it for embedding"),
    ],
)
def test_options_that_cannot_be_used(embedder, options, message):
    with pytest.raises(OptionError, match=message):
        embedder.encode("a", **options)


@pytest.mark.parametrize("value", [2.5, True, "3", None])
def test_counts_are_integers(value):
    check_count("batch_size", np.int64(3))
    with pytest.raises(
        OptionError, match=f"batch_size must be an integer; got {value!r}: give one"
    ):
        check_count("batch_size", value)


def test_vectors_of_different_sizes_are_not_compared(embedder):
    with pytest.raises(OptionError, match=r"same number of dim.*; got 32 and 8: embed both"):
        embedder.similarity(np.ones((2, 32)), np.ones(8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size": 0}, "chunk_tokens must be at least 1; got 0"),
        ({"chunk_size": 4, "chunk_overlap": 4}, "chunk_overlap must be less than chunk_tokens"),
        ({"chunk_size": 4, "by": "sentence"}, "chunk_size belongs to by='tokens'; got 4"),
        ({"by": "page"}, "by must be 'tokens' or 'sentence'; got 'page'"),
        ({"pooling_mode": "cls"}, "the vectors of chunks are means; got pooling_mode='cls'"),
    ],
)
def test_chunks_that_cannot_be_computed(embedder, options, message):
    with pytest.raises(OptionError, match=message):
        embedder.encode_chunks("a", **options)


def test_vectors_that_are_not_finite_are_refused(make_checkpoint):
    embedder = load_embedder(make_checkpoint("FlaxBigBirdModel"))
    params = jax.tree.map(lambda x: x * np.float32(np.nan), embedder.predictor.model.params)
    embedder.predictor.model.params = params
    with pytest.raises(DataError, match="must be finite numbers; the model returned NaN"):
        embedder.encode("the cow")


def test_every_head_is_a_model_of_embeddings(make_checkpoint, embedder):
    for head in ("FlaxBigBirdModel", "FlaxBigBirdForSequenceClassification"):
        assert load_embedder(make_checkpoint(head)).encode("the cow").shape == (32,)
    with pytest.raises(
        OptionError,
        match=r"for bigbird predict; got 'embedding': use bigbird train or evaluate or embed",
    ):
        load_predictor(embedder.predictor.name, task="embedding")
    with pytest.raises(OptionError, match="at most the model's max_position_embeddings, 64; got 6"):
        load_embedder(embedder.predictor.name, max_length=65)


def test_unknown_tokens_are_reported(embedder):
    with pytest.warns(UnknownTokensWarning, match="unknown to the tokenizer"):
        embedder.encode("牛 が 草")


def test_a_folder_of_sentence_transformers_is_evaluated_without_a_task(embedder, tmp_path):
    embedder.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "config_sentence_transformers.json"
    path.write_text(json.dumps({"prompts": {"query": "the cow ", "passage": "a ship "}}))
    embedder = load_embedder(tmp_path / "saved")
    rows = [{"query": sentence(n, 4), "positive": sentence(n + 50, 9)} for n in range(6)]
    report = evaluate(tmp_path / "saved", rows, max_length=32)
    assert report["task"] == "embedding"
    queries = embedder.encode_query([row["query"] for row in rows])
    documents = embedder.encode_document([row["positive"] for row in rows])
    scores = embedder.similarity(queries, documents)
    first = np.mean(scores.argmax(1) == np.arange(6))
    assert report["metrics"]["recall_at_1"] == pytest.approx(first)
    with pytest.raises(OptionError, match="use bigbird train or evaluate or embed"):
        load_predictor(tmp_path / "saved")


def test_the_task_of_a_folder_follows_from_its_list_of_modules(tmp_path):
    """The weights of its layers are not read: there are none."""
    modules = [{"type": f"sentence_transformers.models.{x}"} for x in ("Transformer", "Pooling")]
    dense = {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}
    (tmp_path / "modules.json").write_text(json.dumps([*modules, dense]))
    assert task_of_files(str(tmp_path)) == "embedding"
    (tmp_path / "modules.json").write_text(json.dumps(modules[1:]))
    with pytest.raises(OptionError, match="must start with the modules Transformer and Pooling"):
        task_of_files(str(tmp_path))
