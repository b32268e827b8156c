"""`bigbird demo` from end to end, in its quick form."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from flax_bigbird import FlaxBigBirdForSequenceClassification
from flax_bigbird.cli.main import main
from flax_bigbird.examples.state_of_the_union.report import MADE_BY
from flax_bigbird.examples.state_of_the_union.speeches import LABELS, load_speeches
from flax_bigbird.inference import load_predictor


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--quick", "--output", str(folder), "--seed", "3"]) == 0
    return folder


@pytest.mark.slow
def test_the_demo_writes_a_model_a_vocabulary_and_a_report(output):
    names = {path.name for path in output.iterdir()}
    assert {"model.safetensors", "config.json", "spiece.model", "report.json"} <= names
    assert {"training.jsonl", "held_out.jsonl", "options.yaml", "run.json"} <= names
    assert f"output_dir: {output}\n" in (output / "options.yaml").read_text()
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    report = json.loads((output / "report.json").read_text())
    assert report["made_by"] == MADE_BY
    assert report["settings"]["seed"] == 3
    assert [row["name"] for row in report["rows"]] == [
        "BigBird, whole speech in windows of 128 tokens",
        "BigBird, whole speech in windows of 256 tokens",
        "BigBird, first 256 tokens",
        "BigBird, first 128 tokens",
        "TF-IDF and logistic regression, whole speech",
        "the largest class",
    ]
    assert {row["total"] for row in report["rows"]} == {report["held_out_speeches"]}
    assert sum(report["prediction"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert report["rows"][0]["name"] in (output / "report.md").read_text()


@pytest.mark.slow
def test_the_saved_model_gives_the_probabilities_of_the_report(output):
    prediction = json.loads((output / "report.json").read_text())["prediction"]
    speech = next(s for s in load_speeches() if s.name == prediction["speech"])
    model = FlaxBigBirdForSequenceClassification.from_pretrained(output)
    assert set(model.config.id2label.values()) <= set(LABELS)
    classify = load_predictor(output)
    assert classify.options.whole_documents
    answer = classify(speech.text[:2000])
    probabilities = [answer["scores"].get(label, 0.0) for label in LABELS]
    np.testing.assert_allclose(probabilities, list(prediction["probabilities"].values()), atol=1e-6)


@pytest.mark.slow
def test_evaluate_gives_the_accuracy_of_the_report(output):
    row = json.loads((output / "report.json").read_text())["rows"][0]
    files = [str(output / "held_out.jsonl"), "--output", str(output / "again.json")]
    assert main(["evaluate", str(output), *files]) == 0
    again = json.loads((output / "again.json").read_text())["metrics"]
    assert again["accuracy"] == pytest.approx(row["accuracy"])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model(output, tmp_path):
    again = tmp_path / "again"
    assert main(["demo", "--quick", "--output", str(again), "--seed", "3"]) == 0
    model = (again / "model.safetensors").read_bytes()
    assert model == (output / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_ctrl_c_in_training_leaves_no_files(tmp_path):
    folder = tmp_path / "out"
    code = "from flax_bigbird.cli.main import run; run()"
    command = [sys.executable, "-c", code, "demo", "--quick", "--steps", "100000"]
    process = subprocess.Popen(
        [*command, "--output", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        deadline = time.monotonic() + 300
        while not any(tmp_path.glob(".out-*/run/tokenizer")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=120)[1]
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert error.strip().splitlines()[-1].startswith("bigbird: interrupted")
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
