"""Every implementation against the float64 oracle."""

from attention_suite import AttentionSuite

from flax_bigbird.attention import available_implementations


class TestReference(AttentionSuite):
    implementation = "reference"


class TestXla(AttentionSuite):
    implementation = "xla"


def test_every_implementation_is_tested():
    tested = {cls.implementation for cls in AttentionSuite.__subclasses__()}
    assert tested == set(available_implementations())
