"""Streams of documents: every document once per epoch, shuffled, and resumed with the same bits."""

import functools
import gzip
import json
import threading
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from flax_bigbird.data.batching import BatchRows, Bucket
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.stream_batches import BatchSource, StreamBatches
from flax_bigbird.data.streaming import Position, stream_files

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


def test_every_document_is_read_once_per_epoch_in_another_order_of_shards(folder):
    corpus = stream_files([str(folder / "*.jsonl.gz")], "text", seed=3)
    documents = corpus.iterate_documents(Position())
    epochs = [[next(documents)[0] for _ in range(NUM_DOCUMENTS)] for _ in range(4)]
    assert all(sorted(e) == sorted(map(document, range(NUM_DOCUMENTS))) for e in epochs)
    assert len({tuple(e) for e in epochs}) > 1


@pytest.mark.parametrize("count", [0, 1, 29, 30, 31, 89, 90, 100])
def test_documents_continue_at_any_position(folder, count):
    corpus = stream_files([str(folder / "*.jsonl.gz")], "text", seed=3)
    documents = corpus.iterate_documents(Position())
    position = Position()
    for _ in range(count):
        _, position = next(documents)
    saved = Position(*json.loads(json.dumps(position)))
    resumed = corpus.iterate_documents(saved)
    assert [next(documents)[0] for _ in range(40)] == [next(resumed)[0] for _ in range(40)]


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
    def last_rows(bucket):
        rows = np.arange(bucket.batch_size // 2, bucket.batch_size)
        return BatchRows(rows, lambda batch: batch["noise"])

    batches, parts = StreamBatches(source()), StreamBatches(source(batch_rows=last_rows))
    for batch, part in zip(take(batches, 10), take(parts, 10), strict=True):
        np.testing.assert_array_equal(batch["noise"][len(batch["noise"]) // 2 :], part)


def test_threads_end_with_their_iterator(source):
    before = threading.active_count()
    batches = StreamBatches(source())
    next(batches)
    assert threading.active_count() > before
    del batches
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


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
        ('{"text": "a"}\n{"text": null}\n', "text", "must hold a text in every row; got None"),
        ('{"text": "a"}\n', "body", "column 'body' .* must hold a text .*text_column"),
        ('{"text": " "}\n{"text": ""}\n', "text", "must hold a text that is not empty"),
        ('{"text": \n', "text", "must be readable by `datasets`"),
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
