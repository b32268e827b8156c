"""Answers and metrics on meshes of devices equal those of one device, for every task."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from prediction_meshes_program import CASES
from several_devices import run_with_devices

from flax_bigbird.inference import OptionError, evaluate, load_embedder, load_predictor
from flax_bigbird.inference.jobs import job_fingerprint

# What `generate` does outside its program is compiled, too, and a call with `batch_size` fills its
# last batch up to a power of two, of which other ones occur.
OTHER_PROGRAMS = ("causal-lm", "embedding")
PROGRAM = Path(__file__).with_name("prediction_meshes_program.py")


def test_meshes_answer_like_one_device(tmp_path):
    """Three tasks on meshes of two to eight devices; both differ in every run."""
    seed = random.SystemRandom().randrange(2**32)
    generator = random.Random(seed)
    names = generator.sample(list(CASES), 3)
    print("prediction_meshes_program.py FOLDER", seed, *names)
    output = run_with_devices([str(PROGRAM), str(tmp_path), str(seed), *names], count=8)
    results = [json.loads(line) for line in output.splitlines()]
    assert [result["name"] for result in results] == names
    assert results[0]["num_metrics"], results[0]
    for result in results:
        assert result["answers"] == [], result
        assert result["metrics"] == [], result
        few, many = result["programs"]
        if result["name"] not in OTHER_PROGRAMS:
            assert many <= few, result


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("tensor=3", "must divide the number of devices, 1; got 'tensor=3'"),
        ("data=2", "must multiply to the number of devices, 1; got 'data=2'"),
        ("rows=1", "the axes of mesh must be among data, fsdp, sequence, tensor; got 'rows'"),
    ],
)
def test_a_mesh_that_the_devices_cannot_make_is_refused(classifier, rows, mesh, message):
    calls = (load_predictor, load_embedder, lambda model, mesh: evaluate(model, [rows], mesh=mesh))
    for call in calls:
        with pytest.raises(OptionError, match=message):
            call(classifier, mesh=mesh)


def test_a_mesh_belongs_to_the_loaded_model(classifier):
    embedder = load_embedder(classifier)
    with pytest.raises(OptionError, match="belong to the loaded model; got mesh: give load_embed"):
        embedder.encode("the cow", mesh="data=1")
    with pytest.raises(OptionError, match="devices must be one or more; got none"):
        load_embedder(classifier, devices=[])


def test_a_job_is_resumed_on_another_mesh(classifier):
    """What an unfinished output is compared with does not say which devices computed it."""
    jobs = []
    changes: list[dict[str, Any]] = [{}, {"mesh": "data=1"}, {"max_length": 32}]
    for options in changes:
        predictor = load_predictor(classifier, **options)
        jobs.append(job_fingerprint(predictor.task, predictor.name, "float32"))
    assert jobs[0] == jobs[1] != jobs[2]
