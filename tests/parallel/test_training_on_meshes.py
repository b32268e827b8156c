"""Training on every kind of mesh equals training on one device: losses, parameters, outputs."""

import json
import random
from pathlib import Path

import pytest
from meshes import all_sizes
from several_devices import run_with_devices
from tiny_runs import speech_text, write_jsonl

PROGRAM = Path(__file__).with_name("meshes_program.py")


def meshes_of(count):
    """Returns all meshes of `count` devices as texts."""
    return [",".join(f"{axis}={n}" for axis, n in sizes.items()) for sizes in all_sizes(count)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    text = speech_text()
    rows = [{"text": text[start : start + 1200]} for start in range(0, 30_000, 1200)]
    return write_jsonl(tmp_path_factory.mktemp("data") / "speech.jsonl", rows)


@pytest.mark.slow
def test_meshes_train_like_one_device(tmp_path, data, request):
    """All meshes of two devices, and some of four and eight, which differ in every run."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"random.Random({seed})")
    generator = random.Random(seed)
    meshes = [(2, mesh) for mesh in meshes_of(2)]
    meshes += [(count, m) for count in (4, 8) for m in generator.sample(meshes_of(count), 2)]
    lines = [f"adamw:{mesh}:{count}" for count, mesh in meshes]
    lines.append(f"muon:{generator.choice(meshes_of(8))}:8")
    output = run_with_devices([str(PROGRAM), str(tmp_path), data, *lines], count=8)
    results = [json.loads(line) for line in output.splitlines()]
    assert [result["mesh"] for result in results] == lines
    for result in results:
        losses, params, outputs = result["differences"]
        assert losses < 1e-5, result
        assert params < 1e-5, result
        assert outputs < 1e-5, result
