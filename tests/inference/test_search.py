"""Searches of an index: rankings, prompts, rerankers, and indexes that cannot be used."""

import dataclasses
import json
import re
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import sentence

from flax_bigbird.inference import (
    OptionError,
    SearchIndex,
    build_index,
    load_embedder,
    load_reranker,
    open_index,
)
from flax_bigbird.inference.search.index import _check_query
from flax_bigbird.inference.search.lexical import WordIndex, _word, fuse_ranks, words
from flax_bigbird.inference.search.vectors import update_vectors

NUM_TEXTS = 20

# The tokenizer has no digits, which make the words of some texts unique.
pytestmark = pytest.mark.filterwarnings("ignore::flax_bigbird.data.errors.UnknownTokensWarning")


@pytest.fixture(scope="module")
def model(make_checkpoint) -> str:
    return make_checkpoint("FlaxBigBirdForMaskedLM")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(NUM_TEXTS):
        (folder / f"{number:02}.txt").write_text(f"{sentence(number, 12)} word{number}.")
    return folder


@pytest.fixture(scope="module")
def built(model, folder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("indexes") / "index"
    build_index(folder, path, model=model)
    return path


@pytest.fixture
def index(built):
    with open_index(built) as index:
        yield index


def files(results) -> list[str]:
    return [result.file for result in results]


def test_scores_by_words_are_bm25(tmp_path):
    """Against the formula: k1 = 1.5, b = 0.75, and the inverse document frequency of Lucene."""
    texts = ["the cow and the ship", "The SHIP leaves", "", "a cow"]
    WordIndex.write(tmp_path, texts)
    positions, scores = WordIndex(tmp_path).search("the ship, ship? unknown", 10)
    lengths = [len(words(text)) for text in texts]
    expected = []
    for text, length in zip(texts, lengths, strict=True):
        score = 0.0
        for word in ("the", "ship", "ship"):
            frequency = sum(word in words(other) for other in texts)
            idf = np.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))
            count = words(text).count(word)
            norm = 1.5 * (1 - 0.75 + 0.75 * length / np.mean(lengths))
            score += idf * count / (count + norm)
        expected.append(score)
    assert positions.tolist() == np.argsort(-np.array(expected))[:2].tolist()
    np.testing.assert_allclose(scores, np.sort(expected)[:1:-1], rtol=1e-5)
    assert len(WordIndex(tmp_path).search("unknown", 10)[0]) == 0
    assert WordIndex(tmp_path).search("the", 1)[0].shape == (1,)


def test_words_keep_their_vowels_and_accents():
    """Words of Hindi and Arabic are not split at the marks that write their vowels."""
    hindi, arabic = "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0639\u064e\u0631\u064e\u0628"
    assert words(f"{hindi}, {arabic}!") == [hindi, arabic]
    assert words("CAFE\u0301 caf\u00e9") == ["caf\u00e9"] * 2
    assert words("Don't [x] x_1 2.5^-") == ["don", "t", "x", "x_1", "2", "5"]


def test_all_marks_and_nothing_else_are_added_to_the_characters_of_words():
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    added = {c for c in characters if _word().fullmatch(c)} - set(
        re.findall(r"\w", "".join(characters))
    )
    assert added == {c for c in characters if unicodedata.category(c).startswith("M")}


def test_rankings_are_fused():
    fused = fuse_ranks([[7, 3, 5], [3, 9]], 3)
    assert fused == [(3, 1 / 62 + 1 / 61), (7, 1 / 61), (9, 1 / 62)]


def test_a_hybrid_search_fuses_vectors_and_words(index):
    query = "the word7 cow"
    by_vectors = files(index.search(query, NUM_TEXTS, exact=True))
    fused = index.search(query, 5, hybrid=True)
    texts = [(Path(index.manifest.folder) / f).read_text() for f in sorted(by_vectors)]
    has_word = [
        file for file, text in zip(sorted(by_vectors), texts, strict=True) if "word7" in text
    ]
    assert has_word == ["07.txt"]
    assert fused[0].score <= 2 / 61
    scores = {result.file: result.score for result in fused}
    rank = by_vectors.index("07.txt") + 1
    assert scores["07.txt"] == pytest.approx(1 / 61 + 1 / (60 + rank))


def test_a_search_by_words_needs_no_model(built, monkeypatch):
    monkeypatch.setattr("flax_bigbird.inference.search.index.load_embedder", None)
    with open_index(built) as index:
        (result,) = index.search("word7", 5, words=True)
        assert result.file == "07.txt"
        assert result.score > 1
        assert len(index.search("the word7 cow", 3, words=True)) == 3
        assert index.search("unknown", words=True) == []


class Reranker:
    """Prefers the shortest texts, with the calls of a cross-encoder."""

    def rank(self, query, documents, top_k=None):
        order = np.argsort([len(text) for text in documents], kind="stable")[:top_k]
        return [{"corpus_id": int(n), "score": -len(documents[n])} for n in order]


def test_a_reranker_orders_the_candidates(index):
    candidates = index.search("a cow", 5)
    results = index.search("a cow", 2, rerank=Reranker(), candidates=5)
    expected = sorted(candidates, key=lambda result: len(result.text))[:2]
    assert files(results) == files(expected)
    assert [result.score for result in results] == [-len(result.text) for result in expected]


def test_the_path_of_a_cross_encoder_is_loaded(make_checkpoint, index):
    folder = make_checkpoint("FlaxBigBirdForSequenceClassification", id2label={0: "LABEL_0"})
    results = index.search("a cow", 3, rerank=folder, candidates=6)
    texts = [result.text for result in index.search("a cow", 6)]
    expected = load_reranker(folder).rank("a cow", texts, top_k=3)
    assert [result.text for result in results] == [texts[e["corpus_id"]] for e in expected]
    assert [result.score for result in results] == pytest.approx([e["score"] for e in expected])


def test_queries_and_documents_have_their_prompts(model, folder, tmp_path):
    prompts = {"query": "the cow ", "passage": "a ship "}
    embedder = load_embedder(model)
    embedder.task.modules = dataclasses.replace(embedder.task.modules, prompts=prompts)
    embedder.save_pretrained(tmp_path / "model")
    build_index(folder, tmp_path / "index", model=tmp_path / "model")
    plain = load_embedder(model)
    with open_index(tmp_path / "index") as index:
        assert index.manifest.options["prompt_name"] == "passage"
        (result,) = index.search("harbour", 1, exact=True)
        np.testing.assert_allclose(
            index.embed_query("harbour"), plain.encode("the cow harbour"), atol=1e-5
        )
        text = (folder / result.file).read_text()
        chunk = plain.encode_chunks(text, prompt="a ship ").vectors[0]
        expected = plain.similarity(plain.encode("the cow harbour"), chunk)[0, 0]
        assert result.score == pytest.approx(expected, abs=1e-4)
    build_index(
        folder, tmp_path / "other", model=tmp_path / "model", prompt="", query_prompt="noon "
    )
    with open_index(tmp_path / "other") as index:
        np.testing.assert_allclose(
            index.embed_query("harbour"), plain.encode("noon harbour"), atol=1e-5
        )


def test_an_index_without_words(model, folder, tmp_path):
    path = tmp_path / "index"
    build_index(folder, path, model=model, words=False)
    with open_index(path) as index, pytest.raises(OptionError, match="bigbird index --words"):
        index.search("cow", hybrid=True)
    build_index(folder, path, words=True)
    with open_index(path) as index:
        assert len(index.search("cow", hybrid=True)) == 10


def test_words_are_not_counted_again_if_no_chunk_has_changed(model, tmp_path, monkeypatch):
    folder, path = tmp_path / "texts", tmp_path / "index"
    folder.mkdir()
    (folder / "a.txt").write_text("the cow")
    build_index(folder, path, model=model)
    (folder / "a.txt").rename(folder / "b.txt")
    monkeypatch.setattr(WordIndex, "write", None)
    build_index(folder, path)
    with open_index(path) as index:
        assert files(index.search("cow", words=True)) == ["b.txt"]


@pytest.mark.parametrize("text", ["", "!?"])
def test_an_index_without_words_in_it_finds_nothing_by_words(model, tmp_path, text):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(text)
    path = tmp_path / "index"
    num_chunks = build_index(folder, path, model=model).num_chunks
    assert num_chunks == len(text) // 2
    with open_index(path) as index:
        assert index.search("the cow", words=True) == []
        assert len(index.search("the cow")) == num_chunks
        assert len(index.search("the cow", exact=True)) == num_chunks
        assert len(index.search("the cow", hybrid=True)) == num_chunks
    (folder / "b.txt").write_text("the cow")
    build_index(folder, path)
    with open_index(path) as index:
        assert files(index.search("the cow", words=True)) == ["b.txt"]
        assert files(index.search("the cow", 1)) == ["b.txt"]


def test_a_search_reads_no_texts_but_those_it_returns(index, monkeypatch):
    read = []
    parquet = index._chunks._file
    original = parquet.read_row_group

    class File:
        def read_row_group(self, group, **options):
            read.append(group)
            return original(group, **options)

        def close(self):
            parquet.close()

    monkeypatch.setattr(index._chunks, "_file", File())
    index.search("cow", 1)
    assert len(read) == 1


def test_an_open_index_survives_an_update(model, folder, built, tmp_path):
    with open_index(built) as index:
        before = index.search("the cow", 3)
        (folder / "later.txt").write_text("the cow the cow")
        build_index(folder, built)
        assert index.search("the cow", 3) == before
    (folder / "later.txt").unlink()
    build_index(folder, built)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": " \n"}, "a query must have words"),
        ({"top_k": 0}, "top_k must be at least 1; got 0"),
        ({"candidates": 0}, "candidates must be at least 1; got 0"),
        ({"words": True, "exact": True}, "a search by words compares no vectors; got words with e"),
        ({"words": True, "hybrid": True}, "got words with hybrid: leave one of them out"),
        ({"words": True, "query": " "}, "a query must have words"),
        ({"vector": np.zeros(3)}, "vector must have the 32 dimensions of the index"),
        ({"vector": np.full(32, np.nan)}, "vector must hold finite numbers; got .nan"),
        ({"vector": np.array(["a"] * 32)}, "vector must hold finite numbers; got .'a'"),
        ({"vector": np.zeros(32), "words": True}, "got words with vector: leave one of them out"),
        ({"rerank": 3}, "rerank must be the path of a reranker, .*; got 3"),
    ],
)
def test_invalid_searches(index, options, message):
    with pytest.raises(OptionError, match=message):
        index.search(**({"query": "cow"} | options))


@pytest.mark.parametrize("query", [3, None, ["cow", "ship"]])
def test_a_query_is_one_text(query):
    with pytest.raises(
        OptionError, match=f"a query must be a text; .*{type(query).__name__}: sear"
    ):
        _check_query(query)  # annotations are checked in tests before a search is


def damage(path: Path, kind: str) -> None:
    """Makes an index one that cannot be used."""
    manifest = json.loads((path / "manifest.json").read_text())
    data = path / manifest["data"]
    if kind == "no manifest":
        (path / "manifest.json").unlink()
    elif kind == "foreign":
        (path / "manifest.json").write_text('{"name": "app", "version": 2}')
    elif kind == "no json":
        (path / "manifest.json").write_text("{")
    elif kind == "newer":
        manifest |= {"format_version": 2, "new": 1}
        (path / "manifest.json").write_text(json.dumps(manifest))
    elif kind == "wrong type":
        (path / "manifest.json").write_text(json.dumps(manifest | {"dimension": "32"}))
    elif kind == "no options":
        (path / "manifest.json").write_text(json.dumps(manifest | {"options": {}}))
    elif kind == "no checksums":
        (data / "checksums.json").unlink()
    elif kind == "missing data":
        (data / "vectors.usearch").unlink()
    elif kind == "cut":
        content = (data / "chunks.parquet").read_bytes()
        (data / "chunks.parquet").write_bytes(content[:-9])
    elif kind == "a byte":
        content = bytearray((data / "vectors.usearch").read_bytes())
        content[len(content) // 2] ^= 1
        (data / "vectors.usearch").write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no manifest", "the first build of .* was interrupted"),
        ("foreign", "belongs to another program"),
        ("no json", "is damaged .it is not JSON"),
        ("newer", "must be at most 1; .* has 2, written by flax-bigbird"),
        ("wrong type", "is damaged"),
        ("no options", "is damaged"),
        ("no checksums", "is damaged .*checksums.json is missing"),
        ("missing data", "vectors.usearch is missing.: build it again"),
        ("cut", "chunks.parquet is not as it was saved"),
        ("a byte", "vectors.usearch is not as it was saved"),
    ],
)
def test_indexes_that_cannot_be_used(model, folder, tmp_path, monkeypatch, kind, message):
    path = tmp_path / "index"
    build_index(folder, path, model=model)
    damage(path, kind)
    with pytest.raises(OptionError, match=message):
        open_index(path)
    if kind == "no manifest":
        assert build_index(folder, path, model=model).num_files == NUM_TEXTS
        return
    monkeypatch.setattr("flax_bigbird.inference.search.document_model.load_embedder", None)
    with pytest.raises(OptionError, match=message):  # before the model is loaded
        build_index(folder, path)
    monkeypatch.undo()
    if kind != "foreign":
        build_index(folder, path, model=model, overwrite=True)
        with open_index(path) as index:
            assert len(index) == NUM_TEXTS


def test_an_index_that_was_closed_is_not_searched(built):
    with open_index(built) as index:
        assert index.search("cow", words=True)
    with pytest.raises(OptionError, match="an index must be open to be searched"):
        index.search("cow", words=True)


def test_vectors_that_cannot_be_written_are_an_error_of_the_system(tmp_path):
    added = iter([(np.arange(2), np.ones((2, 4), np.float32))])
    arguments = (4, "cosine", np.zeros(0, np.int64), added)
    with pytest.raises(OSError, match=r"could not be written .* as if the disk were full"):
        update_vectors(None, tmp_path / "missing", *arguments)


def test_paths_without_an_index(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "none": "none does not exist",
        "file": "file is a file",
        "empty": "has no manifest.json",
    }.items():
        with pytest.raises(OptionError, match=message):
            open_index(tmp_path / name)


def test_the_model_of_an_index_is_checked(make_checkpoint, model, folder, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    build_index(folder, tmp_path / "index", model=tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "moved")
    with (
        open_index(tmp_path / "index") as index,
        pytest.raises(OptionError, match="if it has moved, name its place with model"),
    ):
        index.search("cow")
    with open_index(tmp_path / "index", model=tmp_path / "moved") as index:
        expected = index.search("cow")
    with open_index(tmp_path / "index", model=load_embedder(model)) as index:
        assert index.search("cow") == expected
    other = make_checkpoint("FlaxBigBirdForMaskedLM", num_hidden_layers=2)
    with (
        open_index(tmp_path / "index", model=other) as index,
        pytest.raises(OptionError, match="has other parameters: name the right one"),
    ):
        index.search("cow")
    assert isinstance(index, SearchIndex)


def test_indexing_words_logs_nothing_of_bm25s(tmp_path, caplog):
    """bm25s sets its own logger to DEBUG."""
    with caplog.at_level("DEBUG"):
        WordIndex.write(tmp_path, ["the cow", "the moon"])
    assert [record for record in caplog.records if record.name.startswith("bm25s")] == []
