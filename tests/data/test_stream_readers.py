"""Streams that several processes read, which are threads here: the same batches for any number."""

import collections
import json
import threading

import numpy as np
import pytest
from tiny_runs import write_jsonl

from flax_bigbird.data import stream_exchange
from flax_bigbird.data.batching import BatchRows, Bucket
from flax_bigbird.data.corpus import Position
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.stream_batches import BatchSource, StreamBatches
from flax_bigbird.data.streaming import stream_files

BUCKETS = [Bucket(4, np.zeros(0, int), 8), Bucket(8, np.zeros(0, int), 5)]
BLOCK_SIZE = 30


class Meeting:
    """What `gather_from_all` is for processes: all threads meet, and each gets all results."""

    def __init__(self, count: int):
        self._barrier = threading.Barrier(count, timeout=60)
        self._results: list = [None] * count

    def exchange(self, index: int, function):
        try:
            self._results[index] = function()
        except DataError as error:
            self._results[index] = error
        self._barrier.wait()
        results = list(self._results)
        self._barrier.wait()
        for result in results:
            if isinstance(result, DataError):
                raise result
        return results


def encode(texts):
    """Returns a window for each text, of up to eight words."""
    return [np.array(text.split(), np.int32) for text in texts]


def collate(example, length, generator):
    ids = np.full(length, -1, np.int32)
    ids[: example["length"]] = example["input_ids"]
    return {"input_ids": ids, "noise": generator.random(1)}


def rows_of(index, num_processes):
    """Returns the rows of a process: neighbors, after those of each reader are put together."""

    def select(bucket, num_readers=1):
        order = np.argsort(np.arange(bucket.batch_size) % num_readers, kind="stable")
        return BatchRows(np.array_split(order, num_processes)[index], lambda arrays: arrays)

    return select


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Five files of 1 to 150 documents; those of the largest have eight words, others fewer."""
    folder = tmp_path_factory.mktemp("corpus")
    number = 0
    for file, size in enumerate((40, 1, 150, 7, 60)):
        rows = []
        for _ in range(size):
            number += 1
            length = 8 if size == 150 else 1 + number % 4
            rows.append({"text": " ".join([str(number), *["0"] * (length - 1)])})
        write_jsonl(folder / f"{file}.jsonl", rows)
    return stream_files([str(folder / "*.jsonl")], "text", seed=1)


def run(corpus, num_processes, count, num_readers=None, state=None):
    """Returns the batches as rows in canonical order, and the state, from threads."""
    meeting = Meeting(num_processes)
    outputs: list = [None] * num_processes

    def work(index):
        source = BatchSource(
            corpus,
            encode,
            BUCKETS,
            collate,
            7,
            shuffle_buffer_size=BLOCK_SIZE,
            num_readers=num_readers or num_processes,
            batch_rows=rows_of(index, num_processes),
            exchange=lambda function: meeting.exchange(index, function),
        )
        batches = StreamBatches(source)
        if state is not None:
            batches.set_state(json.loads(json.dumps(state)))
        try:
            outputs[index] = [next(batches) for _ in range(count)], batches.get_state()
        except DataError as error:
            outputs[index] = error

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(num_processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    errors = [output for output in outputs if isinstance(output, DataError)]
    if errors:
        assert len(errors) == num_processes
        raise errors[0]
    states = [json.dumps(state) for _, state in outputs]
    assert len(set(states)) == 1
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*(batches for batches, _ in outputs), strict=True)
    ]
    return joined, json.loads(states[0])


def assert_same(batches, others):
    for one, other in zip(batches, others, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("num_readers", [1, 2, 4])
def test_batches_do_not_depend_on_the_number_of_processes(corpus, num_readers):
    """All numbers of processes resume the same run; a run is defined by its number of readers."""
    batches, _ = run(corpus, 1, 40, num_readers)
    shapes = {batch["input_ids"].shape for batch in batches}
    assert shapes == {(8, 4), (5 // num_readers * num_readers, 8)}
    for num_processes in (2, 3, 4):
        count = 3 * num_processes + 4
        before, state = run(corpus, num_processes, count, num_readers)
        assert len(state["readers"]) == num_readers
        assert_same(before, batches[:count])
        for others in (num_processes, 5 - num_processes):
            after, _ = run(corpus, others, 40 - count, num_readers, state)
            assert_same(after, batches[count:])


@pytest.mark.parametrize("num_readers", [2, 4])
def test_files_of_unlike_lengths_cost_no_padding(tmp_path, num_readers, monkeypatch):
    """Readers of short and of long documents give each other some, a few in each round."""
    monkeypatch.setattr(stream_exchange, "MAX_TOKENS_PER_ROUND", 16 * num_readers)
    for file in range(num_readers):
        text = " ".join(["1"] * (8 if file % 2 else 3))
        write_jsonl(tmp_path / f"{file}.jsonl", [{"text": text}] * 40)
    unlike = stream_files([str(tmp_path / "*.jsonl")], "text", seed=1)
    batches, state = run(unlike, num_readers, 30)
    lengths = {(len(row), sum(row > 0)) for batch in batches for row in batch["input_ids"]}
    assert lengths == {(4, 3), (8, 8)}
    after, _ = run(unlike, 1, 10, num_readers, state)
    whole, _ = run(unlike, 2, 40, num_readers)
    assert_same(after, whole[30:])


def test_every_window_is_given_once(corpus):
    """What two readers have given, and what waits, is what they have read; nothing waits for long.

    One of them reads mostly long documents, and the other mostly short ones, at times.
    """
    batches, state = run(corpus, 2, 400)
    given = collections.Counter(
        int(row[0]) for batch in batches for row in batch["input_ids"].tolist()
    )
    blocks, left = state["block"], []
    expected: collections.Counter = collections.Counter()
    divided = corpus.divided(2)
    for reader in range(2):
        texts: list[str] = []
        for group, _ in divided.iterate_documents(Position(reader), 2):
            texts += group
            if len(texts) >= BLOCK_SIZE * (blocks + 1):
                break
        expected.update(int(text.split()[0]) for text in texts[: BLOCK_SIZE * (blocks + 1)])
        left.append(len(state["readers"][reader]["waiting_lengths"]))
    assert max(left) < 8 + 5
    assert given <= expected
    missing = (expected - given).total()
    assert missing < 2 * (BLOCK_SIZE + 8 + 5)
    counts = np.array([given[number] for number in range(1, 259)])
    assert counts.min() >= counts.mean() / 2


@pytest.mark.parametrize("num_processes", [2, 6])
def test_a_single_file_is_read_by_all_processes(corpus, tmp_path, num_processes):
    rows = [{"text": str(number)} for number in range(100)]
    single = stream_files([write_jsonl(tmp_path / "a.jsonl", rows)], "text", seed=1)
    batches, state = run(single, num_processes, 20)
    assert len(state["readers"]) == {2: 2, 6: 3}[num_processes]  # a batch has five rows
    ids = [int(row[0]) for batch in batches for row in batch["input_ids"]]
    assert min(collections.Counter(ids).values()) >= 1


def test_an_error_of_one_process_is_one_of_all(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "1"}] * 50)
    write_jsonl(tmp_path / "b.jsonl", [*[{"text": "1"}] * 30, {"text": None}])
    corpus = stream_files([str(tmp_path / "*.jsonl")], "text", seed=1)
    with pytest.raises(DataError, match=r"got None in \S*b.jsonl, row 31, "):
        run(corpus, 2, 20)


def test_states_of_earlier_versions_are_refused(corpus):
    source = BatchSource(corpus, encode, BUCKETS, collate, 0, shuffle_buffer_size=9)
    with pytest.raises(DataError, match="resumes with the version that it was started with"):
        StreamBatches(source).set_state({"start": [0, 0, None], "block": 0})
