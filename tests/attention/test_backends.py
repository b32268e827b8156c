"""Every implementation against the float64 oracle."""

import pytest
from attention_suite import AttentionSuite

from flax_bigbird.attention import available_implementations

REASONS = available_implementations()


class TestReference(AttentionSuite):
    implementation = "reference"


class TestXla(AttentionSuite):
    implementation = "xla"


@pytest.mark.skipif(REASONS["cpu"] != "", reason=REASONS["cpu"])
class TestCpu(AttentionSuite):
    implementation = "cpu"
    declines = ("float64", "float16")


def test_every_implementation_is_tested():
    tested = {cls.implementation for cls in AttentionSuite.__subclasses__()}
    assert tested == set(available_implementations())
