"""Tests that the files of `deploy/` name metrics, flags and files that exist."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from flax_bigbird.server.metrics import Metrics
from flax_bigbird.server.settings import API_KEY_VARIABLE, ServerSettings

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_board_shows_metrics_that_exist(server):
    board = json.loads((DEPLOY / "grafana" / "board.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = set(re.findall(r"bigbird_\w+", " ".join(queries)))
    server.post("/embed", {"inputs": "the cow"})
    text = server.get("/metrics").body.decode()
    assert len(named) >= 7
    assert not [name for name in named if f"{name}{{" not in text and f"{name} " not in text]


def test_metrics_of_two_servers_do_not_mix():
    first, second = Metrics(), Metrics()
    first.requests.labels("/embed", 200).inc()
    assert b'status="200"' in first.text()
    assert b'status="200"' not in second.text()


def test_compose_mounts_files_that_exist():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    mounts = [v for s in compose["services"].values() for v in s.get("volumes", ())]
    local = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert len(local) >= 4
    assert not [path for path in local if not (DEPLOY / path).is_file()]
    assert API_KEY_VARIABLE in compose["services"]["bigbird"]["environment"]
    ports = [port for s in compose["services"].values() for port in s["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    grace = int(compose["services"]["bigbird"]["stop_grace_period"].rstrip("s"))
    assert grace > ServerSettings().drain_timeout


def test_the_image_runs_a_command_that_exists():
    text = (DEPLOY / "Dockerfile").read_text()
    entrypoint = json.loads(text.split("ENTRYPOINT ")[1].splitlines()[0])
    assert entrypoint[:2] == ["bigbird", "serve"]
    options = dict(zip(entrypoint[2::2], entrypoint[3::2], strict=True))
    ServerSettings(**{name[2:].replace("-", "_"): value for name, value in options.items()})
    assert re.search(r"^USER bigbird$", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["prometheus.yaml", "grafana/datasource.yaml"])
def test_configurations_name_the_services_of_compose(name):
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    hosts = re.findall(r"(\w+):\d{4}", (DEPLOY / name).read_text())
    assert hosts
    assert set(hosts) <= services.keys()


def test_prometheus_uses_the_first_of_several_keys(tmp_path):
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    (command,) = compose["services"]["prometheus"]["command"]
    written = command.replace("$$", "$").split(" && ")[0].replace("/tmp/key", f"{tmp_path}/key")
    keys = {API_KEY_VARIABLE: "first-key,second-key"}
    subprocess.run(["/bin/sh", "-c", written], env=keys, check=True)
    configuration = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
    (job,) = configuration["scrape_configs"]
    assert job["authorization"]["credentials_file"] == "/tmp/key"
    assert (tmp_path / "key").read_text() == "first-key"
