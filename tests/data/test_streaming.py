"""Streams of documents: every document once per epoch, shuffled, and resumed with the same bits."""

import functools
import gzip
import json
import threading

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from flax_bigbird.data import corpus as corpora
from flax_bigbird.data.batching import BatchRows, Bucket
from flax_bigbird.data.corpus import Position
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.stream_batches import BatchSource, StreamBatches
from flax_bigbird.data.streaming import stream_files

NUM_DOCUMENTS = 90
BUCKETS = [Bucket(4, np.zeros(0, int), 6), Bucket(8, np.zeros(0, int), 3)]


def document(number: int) -> str:
    """Returns a text of one or two windows; its first word is its number."""
    return " ".join([str(number), *"0" * (number % 7)])


def encode(texts: list[str]) -> list[np.ndarray]:
    """Returns windows of up to four words, and of eight for every third text."""
    ids = [np.array(text.split(), np.int32) for text in texts]
    sizes = [8 if words[0] % 3 == 0 else 4 for words in ids]
    return [
        words[start : start + size]
        for words, size in zip(ids, sizes, strict=True)
        for start in range(0, len(words), size)
    ]


def collate(example, length, generator):
    ids = np.zeros(length, np.int32)
    ids[: example["length"]] = example["input_ids"]
    return {"input_ids": ids, "noise": generator.random(2)}


@pytest.fixture
def folder(tmp_path):
    """A folder with three compressed JSONL files of 30 documents each."""
    for shard in range(3):
        with gzip.open(tmp_path / f"{shard}.jsonl.gz", "wt") as stream:
            for number in range(30 * shard, 30 * shard + 30):
                stream.write(json.dumps({"text": document(number), "id": number}) + "\n")
    return tmp_path


@pytest.fixture
def source(folder):
    corpus = stream_files([f"{folder}/*.jsonl.gz"], "text", seed=3)
    assert corpus.num_shards == 3
    make = functools.partial(BatchSource, corpus, encode, BUCKETS, collate, 5)
    return functools.partial(make, shuffle_buffer_size=20)


def take(batches, count):
    return [next(batches) for _ in range(count)]


def read(corpus, start, count, num_readers=1):
    """Returns at least `count` documents after a position, and the position after them."""
    documents, position = [], start
    groups = corpus.iterate_documents(start, num_readers)
    while len(documents) < count:
        texts, position = next(groups)
        documents += texts
    return documents, position


def test_every_document_is_read_once_per_epoch_in_another_order_of_shards(folder):
    corpus = stream_files([str(folder / "*.jsonl.gz")], "text", seed=3)
    documents, _ = read(corpus, Position(), 4 * NUM_DOCUMENTS)
    epochs = [documents[NUM_DOCUMENTS * n : NUM_DOCUMENTS * (n + 1)] for n in range(4)]
    assert all(sorted(e) == sorted(map(document, range(NUM_DOCUMENTS))) for e in epochs)
    assert len({tuple(e) for e in epochs}) > 1


@pytest.mark.parametrize("count", [0, 1, 33, 65, 97, 129])
@pytest.mark.parametrize("num_readers", [1, 2, 5])
def test_documents_continue_at_any_position(folder, count, num_readers):
    """After groups that end inside of shards, and in the next ones, and with divided shards."""
    corpus = stream_files([str(folder / "*.jsonl.gz")], "text", seed=3).divided(num_readers)
    start = Position(num_readers - 1)
    documents, _ = read(corpus, start, count + 100, num_readers)
    before, position = read(corpus, start, count, num_readers) if count else ([], start)
    saved = Position(*json.loads(json.dumps(position)))
    after, _ = read(corpus, saved, 40, num_readers)
    assert documents[: len(before) + 40] == (before + after)[: len(before) + 40]


@pytest.mark.parametrize("num_readers", [1, 2, 3, 4, 7])
def test_readers_read_every_row_once_per_epoch(folder, num_readers, monkeypatch):
    """With fewer files than readers, too."""
    monkeypatch.setattr(corpora, "DOCUMENTS_PER_GROUP", 1)
    corpus = stream_files([str(folder / "*.jsonl.gz")], "text", seed=3).divided(num_readers)
    assert corpus.num_shards >= num_readers
    epochs: list[list[str]] = [[], [], []]
    for reader in range(num_readers):
        for texts, position in corpus.iterate_documents(Position(reader), num_readers):
            if position.shard >= 3 * corpus.num_shards:
                break
            epochs[position.shard // corpus.num_shards] += texts
    documents = sorted(map(document, range(NUM_DOCUMENTS)))
    assert [sorted(epoch) for epoch in epochs] == [documents] * 3


def test_parquet_files_are_divided_by_row_groups(tmp_path):
    texts = [f"row {number}" for number in range(20)]
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=5
    )
    corpus = stream_files([str(tmp_path / "a.parquet")], "text", seed=0).divided(3)
    if not hasattr(corpus.dataset, "reshard"):
        assert (corpus.dataset.num_shards, corpus.num_parts) == (1, 3)
        pytest.skip("this version of datasets does not divide Parquet files")
    assert (corpus.dataset.num_shards, corpus.num_parts) == (4, 1)
    assert sorted(corpus.iterate_texts(20)) == sorted(texts)
    again = stream_files([str(tmp_path / "a.parquet")], "text", seed=0).divided_as(4, 1)
    assert list(again.iterate_texts(20)) == list(corpus.iterate_texts(20))
    with pytest.raises(DataError, match=r"resumes with the shards .* had 5 and has 4 now"):
        again.divided_as(5, 1)


def test_batches_are_shuffled_and_hold_every_window(source):
    batches = take(StreamBatches(source()), 60)
    assert {batch["input_ids"].shape for batch in batches} == {(6, 4), (3, 8)}
    firsts = [int(row[0]) for batch in batches for row in batch["input_ids"] if row[0]]
    first_epoch = firsts[: NUM_DOCUMENTS - 30]
    assert len(set(firsts)) == NUM_DOCUMENTS - 1  # the first word of one document is 0
    assert first_epoch != sorted(first_epoch)
    assert len({float(n) for batch in batches for n in batch["noise"].flat}) == sum(
        batch["noise"].size for batch in batches
    )


@pytest.mark.parametrize("count", [0, 1, 7, 23, 40])
def test_resumed_batches_have_the_same_bits(source, count):
    batches = StreamBatches(source())
    take(batches, count)
    state = json.loads(json.dumps(batches.get_state()))
    resumed = StreamBatches(source())
    resumed.set_state(state)
    for one, other in zip(take(batches, 25), take(resumed, 25), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert batches.get_state() == resumed.get_state()


def test_batches_do_not_depend_on_the_number_of_processes(source):
    alone, several = StreamBatches(source()), StreamBatches(source(num_workers=2))
    for one, other in zip(take(alone, 30), take(several, 30), strict=True):
        np.testing.assert_array_equal(one["input_ids"], other["input_ids"])
        np.testing.assert_array_equal(one["noise"], other["noise"])


def test_a_process_reads_its_own_rows(source):
    def last_rows(bucket, num_readers=1):
        assert num_readers == 1
        rows = np.arange(bucket.batch_size // 2, bucket.batch_size)
        return BatchRows(rows, lambda batch: batch["noise"])

    batches, parts = StreamBatches(source()), StreamBatches(source(batch_rows=last_rows))
    for batch, part in zip(take(batches, 10), take(parts, 10), strict=True):
        np.testing.assert_array_equal(batch["noise"][len(batch["noise"]) // 2 :], part)


def test_threads_end_with_their_iterator(source):
    before = set(threading.enumerate())
    batches = StreamBatches(source())
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    del batches
    for thread in started:
        thread.join(20)
        assert not thread.is_alive()


def test_parquet_at_urls_and_folders_of_texts_are_streamed(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": ["one", "two"]}), tmp_path / "a.parquet")
    corpus = stream_files([f"file://{tmp_path}/*.parquet"], "body", seed=0)
    assert list(corpus.iterate_texts(2)) == ["one", "two"]
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name}\n\nend")
    corpus = stream_files([str(tmp_path)], "text", seed=0)
    assert sorted(corpus.iterate_texts(2)) == ["a\n\nend", "b\n\nend"]


def first_batch(path: str, column: str):
    corpus = stream_files([path], column, seed=0)
    source = BatchSource(corpus, encode, BUCKETS, collate, 0, shuffle_buffer_size=5)
    return next(StreamBatches(source))


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        (
            '{"text": "a"}\n{"text": null}\n',
            "text",
            r"must hold a text in every row; got None in \S*in.jsonl, row 2, ",
        ),
        ('{"text": "a"}\n', "body", "column 'body' .* must hold a text .*text_column"),
        ('{"text": " "}\n{"text": ""}\n', "text", "must hold a text that is not empty"),
        ('{"text": \n', "text", r"must be readable by `datasets`; \S*in.jsonl is not \(.*check"),
    ],
)
def test_bad_documents_are_reported(tmp_path, content, column, message):
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        first_batch(str(tmp_path / "in.jsonl"), column)


@pytest.mark.parametrize("name", ["none*.jsonl", "in.conll"])
def test_files_that_cannot_be_streamed_are_refused(tmp_path, name):
    (tmp_path / "in.conll").write_text("a O\n")
    with pytest.raises(DataError, match=r"must exist; no file matches|must be of one kind"):
        stream_files([str(tmp_path / name)], "text", seed=0)
