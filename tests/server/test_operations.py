"""Tests health, information, metrics, the description of the API, and the end of a server."""

import time

from server_process import FLAGS, ServerProcess, wait_until
from tiny_checkpoints import sentence


def test_a_server_that_is_stopped_before_it_is_ready_ends(checkpoints):
    process = ServerProcess(checkpoints["embedding"], *FLAGS)
    try:
        process.terminate()
        process.wait()
        assert "ready" not in {entry["message"] for entry in process.log}
    finally:
        process.close()


def test_a_server_from_its_start_to_its_end(checkpoints):
    """It is ready once all is compiled, and SIGTERM loses nothing that was accepted."""
    process = ServerProcess(checkpoints["embedding"], *FLAGS, "--max-concurrent-requests", "8")
    requests = []
    try:
        early = process.get("/health")
        assert (early.status, early.json()["error_type"]) == (503, "Unhealthy")
        assert process.post("/embed", {"inputs": "the cow"}).headers["retry-after"]
        process.wait_for("ready")
        assert process.get("/health").status == 200
        for seed in range(8):
            body = {"inputs": [sentence(seed + n, 400) for n in range(8)]}
            requests.append(process.open_post("/embed", body))
        wait_until(lambda: process.gauge("bigbird_requests_in_progress") == 8)
        refused = process.post("/embed", {"inputs": "the cow"})
        assert (refused.status, refused.json()["error_type"]) == (429, "Overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        for request in requests[:4]:
            request.finish()
        process.terminate()
        assert 4 <= process.wait_for("draining")["requests"] <= 8
        time.sleep(6)  # uvicorn alone waits for 5 s
        for request in requests[4:]:
            request.finish()
        assert [request.response().status for request in requests] == [200] * 8
        assert process.wait() == 0
    finally:
        for request in requests:
            request.close()
        process.close()


def test_info_names_models_and_limits(server):
    info = server.get("/info").json()
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert info["max_client_batch_size"] == 64
    by_task = {model["task"]: model for model in info["models"]}
    assert by_task["embedding"]["embedding_dimension"] == 32
    assert by_task["sequence-classification"]["labels"] == ["meadow", "harbour", "neither"]
    names = {model["id"] for model in server.get("/v1/models").json()["data"]}
    assert names == {model["name"] for model in info["models"]}


def test_metrics_count_requests_and_batches(server):
    server.post("/embed", {"inputs": "the cow"})
    text = server.get("/metrics").body.decode()
    assert 'bigbird_requests_total{path="/embed",status="200"}' in text
    assert "bigbird_batch_seconds_count" in text
    assert "bigbird_queue_tokens 0.0" in text


def test_the_description_of_the_api_has_every_path(server):
    document = server.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            response = server.request(method.upper(), path, {} if method == "post" else None)
            assert response.status != 404, path
    references = {
        value
        for value in str(document).replace("'", '"').split('"')
        if value.startswith("#/components/schemas/")
    }
    assert {r.rpartition("/")[2] for r in references} <= document["components"]["schemas"].keys()


def test_the_log_has_sizes_and_no_texts(server):
    secret = "meadow harbour secretword"
    server.post("/embed", {"inputs": secret})
    server.post(f"/{secret.replace(' ', '-')}?q=secretword", {"inputs": secret})
    assert "secretword" not in "".join(server.stderr)
    entry = next(e for e in server.log if e.get("path") == "/embed" and "tokens" in e)
    assert {"bytes_in", "bytes_out", "seconds", "status", "texts", "model"} <= entry.keys()
