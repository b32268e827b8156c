"""`--engine ray` of `bigbird predict` and `bigbird embed`: the flags, and what is refused."""

import sys

import pytest

from flax_bigbird.cli.main import main


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_the_engine_is_called_with_the_flags(monkeypatch, tmp_path, command, capsys):
    rays = pytest.importorskip("flax_bigbird.inference.ray", reason="needs the extra ray")
    calls = []

    def answer(*arguments, **options):
        calls.append((arguments, options))
        return 7

    monkeypatch.setattr(rays, f"{command}_files", answer, raising=False)
    flags = ["--engine", "ray", "--address", "auto", "--concurrency", "3", "--keep", "id"]
    output = str(tmp_path / "out")
    assert main([command, "model", "in.jsonl", "-o", output, *flags, "--max-length", "64"]) == 0
    ((arguments, options),) = calls
    assert arguments == ("model", ["in.jsonl"], output)
    expected = {"address": "auto", "concurrency": 3, "keep": ["id"], "max_length": 64}
    assert expected.items() <= options.items()
    # A long path is on a line of its own.
    assert f"7 rows: {output}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "spark"], "engine must be one of local, ray; got 'spark'"),
        (["--address", "auto"], "address belongs to the engine ray; got 'auto'"),
        (["--engine", "local", "--concurrency", "2"], "concurrency belongs to the engine ray"),
        (["--engine", "ray", "--concurrency", "0"], "concurrency must be at least 1; got 0"),
        (["--engine", "ray", "--concurrency", "two"], "concurrency must be of type int; got 'two'"),
    ],
)
def test_invalid_flags_are_refused(tmp_path, flags, message, capsys):
    pytest.importorskip("ray", reason="needs the extra ray")
    assert main(["predict", "model", "in.jsonl", "-o", str(tmp_path / "out"), *flags]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_missing_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("flax_bigbird.inference.ray")]:
        monkeypatch.delitem(sys.modules, name)
    flags = ["-o", str(tmp_path / "out"), "--engine", "ray"]
    assert main(["predict", "model", "in.jsonl", *flags]) == 2
    assert 'pip install "flax-bigbird[ray]"' in " ".join(capsys.readouterr().err.split())
