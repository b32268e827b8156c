import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from flax_bigbird import FlaxBigBirdForSequenceClassification, tasks
from flax_bigbird.cli.demo import data
from flax_bigbird.cli.demo.report import MADE_BY
from flax_bigbird.cli.main import main


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--quick", "--output", str(folder), "--seed", "3"]) == 0
    return folder


@pytest.mark.slow
def test_the_demo_leaves_a_model_a_vocabulary_and_a_report(output):
    names = {path.name for path in output.iterdir()}
    assert {"model.safetensors", "config.json", "spiece.model", "report.json"} <= names
    assert {"training.jsonl", "held_out.jsonl", "options.yaml", "run.json"} <= names
    assert f"output_dir: {output}\n" in (output / "options.yaml").read_text()
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    found = json.loads((output / "report.json").read_text())
    assert found["made_by"] == MADE_BY
    assert found["settings"]["seed"] == 3
    assert [row["name"] for row in found["rows"]] == [
        "BigBird, whole speech in windows of 128 tokens",
        "BigBird, whole speech in windows of 256 tokens",
        "BigBird, first 256 tokens",
        "BigBird, first 128 tokens",
        "TF-IDF and logistic regression, whole speech",
        "the largest class",
    ]
    assert {row["total"] for row in found["rows"]} == {found["held_out_speeches"]}
    assert sum(found["prediction"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert found["rows"][0]["name"] in (output / "report.md").read_text()


@pytest.mark.slow
def test_loading_the_folder_gives_the_reports_probabilities(output):
    found = json.loads((output / "report.json").read_text())["prediction"]
    speech = next(s for s in data.load_speeches() if s.name == found["speech"])
    model = FlaxBigBirdForSequenceClassification.from_pretrained(output)
    assert set(model.config.id2label.values()) <= set(data.LABELS)
    task = tasks.load(output)
    assert task.options.whole_documents
    answer = task(speech.text[:2000])
    probabilities = [answer["scores"].get(label, 0.0) for label in data.LABELS]
    np.testing.assert_allclose(probabilities, list(found["probabilities"].values()), atol=1e-6)


@pytest.mark.slow
def test_the_files_are_those_of_the_commands(output):
    """`bigbird evaluate` on the held-out speeches finds what the demo found."""
    row = json.loads((output / "report.json").read_text())["rows"][0]
    files = [str(output / "held_out.jsonl"), "--output", str(output / "again.json")]
    assert main(["evaluate", str(output), *files]) == 0
    again = json.loads((output / "again.json").read_text())["metrics"]
    assert again["accuracy"] == pytest.approx(row["accuracy"])


@pytest.mark.slow
def test_the_seed_decides_the_result(output, tmp_path):
    again = tmp_path / "again"
    assert main(["demo", "--quick", "--output", str(again), "--seed", "3"]) == 0
    model = (again / "model.safetensors").read_bytes()
    assert model == (output / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_ctrl_c_in_training_leaves_nothing_behind(tmp_path):
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
