"""Addresses at which there is no Ray cluster."""

import socket
import time

import pytest

from flax_bigbird.data.errors import OptionError

pytest.importorskip("ray", reason="needs the extra `ray`")


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


ADDRESSES = [f"127.0.0.1:{closed_port()}", "no.such.host.invalid:6379", "a:99999"]


@pytest.mark.parametrize("address", ADDRESSES, ids=["closed port", "no host", "no port"])
def test_an_address_without_a_cluster_is_reported_at_once(address):
    from flax_bigbird.inference.ray import cluster

    start = time.monotonic()
    with (
        pytest.raises(OptionError, match=f"must be that of a running Ray cluster; got '{address}'"),
        cluster.connect(address),
    ):
        pass
    assert time.monotonic() - start < 30
