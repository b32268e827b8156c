"""`benchmarks/genomes.py`: which bases are predicted, and the whole run on a tiny chromosome."""

import gzip
import json

import numpy as np
import pytest


@pytest.fixture
def chromosome(tmp_path):
    """A FASTA file with random bases, a gap, and single N."""
    letters = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), 60_000)
    letters[20_000:20_300] = ord("N")
    letters[50_000] = ord("N")
    path = tmp_path / "x.fa.gz"
    path.write_bytes(gzip.compress(b">X\n" + letters.tobytes() + b"\n"))
    return path, letters.tobytes().decode()


def test_stretches_are_distinct_and_without_n(benchmark, chromosome):
    genomes = benchmark("genomes")
    path, letters = chromosome
    rows = genomes.load_rows(str(path), (0, 100_000))
    stretches = genomes.choose_stretches(rows, 100, seed=0)
    assert all(len(stretch) == 4094 and "N" not in stretch for stretch in stretches)
    starts = sorted(letters.index(stretch) for stretch in stretches)
    assert np.diff(starts).min() >= 4094
    assert len(starts) >= 10
    assert genomes.choose_stretches(rows, 5, seed=0) == stretches[:5]


def test_targets_are_in_the_middle_of_both_inputs(benchmark):
    genomes = benchmark("genomes")
    targets = genomes.choose_targets(50, seed=0)
    assert targets.shape == (50, 38)
    assert all(len(set(row)) == 38 for row in targets.tolist())
    room = 512 - 2
    start = (4094 - room) // 2
    assert targets.min() - start >= 120
    assert start + room - targets.max() >= 120


@pytest.mark.usefixtures("standard_dtype_promotion")  # optax
@pytest.mark.slow
def test_the_benchmark_runs_and_repeats_nothing(benchmark, chromosome, tmp_path, monkeypatch):
    genomes = benchmark("genomes")
    monkeypatch.setattr(genomes, "TRAINING", (0, 25_000))
    monkeypatch.setattr(genomes, "HELD_OUT", (0, 100_000))
    monkeypatch.setattr(genomes, "LAYERS", 1)
    monkeypatch.setattr(genomes, "WIDTH", 64)
    words = ["genomes.py", str(chromosome[0]), "--quick", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    genomes.main()
    results = json.loads((tmp_path / "quick/genomes.json").read_text())
    assert len(results["rows"]) == 6
    for key, row in results["rows"].items():
        assert len(row["bits"]) == 3
        assert 1 < np.mean(row["bits"]) < 20, key
    page = (tmp_path / "quick/genomes.md").read_text()
    assert page.count("\n| ") == 8
    assert "The Markov mixture predicts better" in page
    before = (tmp_path / "quick/genomes.json").read_text()
    monkeypatch.setattr(genomes, "model_bits", None)  # is not called
    genomes.main()
    assert (tmp_path / "quick/genomes.json").read_text() == before
