"""The load of `serving.py`, for locust: users who send texts one after the other.

`LOAD` is the path of a JSON file: `{"url", "texts": {"name": [...]}, "users": [{"name", "count",
"interval"}], "seconds", "output"}`. Users of one name send the texts of that name in turns, each
user one at a time; with an interval, a user starts a request every so many seconds. Without
`seconds`, every text is sent once. The times and statuses of all requests are written to `output`.
"""

import itertools
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import gevent  # pyright: ignore
from locust import FastHttpUser, constant_pacing, events, task  # pyright: ignore
from locust.exception import StopUser  # pyright: ignore

with open(os.environ["LOAD"], encoding="utf-8") as file:
    LOAD: dict[str, Any] = json.load(file)
REQUESTS: list[dict[str, Any]] = []
RUNNING = {"users": sum(users["count"] for users in LOAD["users"])}


def endless(name: str) -> Iterator[tuple[int, str]]:
    """Yields the texts of a name with their indices: once, or again and again for a time."""
    texts = list(enumerate(LOAD["texts"][name]))
    return itertools.cycle(texts) if LOAD.get("seconds") else iter(texts)


QUEUES = {name: endless(name) for name in LOAD["texts"]}


class Sender(FastHttpUser):
    """Sends texts to `/predict`."""

    abstract = True
    host = LOAD["url"]
    load_name = ""
    network_timeout = connection_timeout = 300.0

    @task
    def send(self) -> None:
        item = next(QUEUES[self.load_name], None)
        if item is None:
            RUNNING["users"] -= 1
            if not RUNNING["users"]:  # nobody waits for an answer any more
                gevent.spawn(self.environment.runner.quit)
            raise StopUser
        index, text = item
        begun = time.monotonic()
        body = {"inputs": text}
        with self.client.post("/predict", json=body, catch_response=True) as response:
            seconds = time.monotonic() - begun
            label = response.json()[0]["label"] if response.status_code == 200 else None
            response.success()  # 429 is an answer, which we count ourselves
        REQUESTS.append(
            {
                "name": self.load_name,
                "index": index,
                "status": response.status_code,
                "seconds": seconds,
                "ended": time.monotonic(),
                "label": label,
            }
        )


for number, users in enumerate(LOAD["users"]):
    interval = users.get("interval")
    members: dict[str, Any] = {"load_name": users["name"], "fixed_count": users["count"]}
    if interval:
        members["wait_time"] = constant_pacing(interval)
    globals()[f"User{number}"] = type(f"User{number}", (Sender,), members)


@events.quitting.add_listener
def _write(**_: Any) -> None:
    with open(LOAD["output"], "w", encoding="utf-8") as output:
        json.dump(REQUESTS, output)
