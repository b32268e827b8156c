"""The option `mesh`: what it means, and what is refused before any work."""

from types import SimpleNamespace

import pytest

from flax_bigbird.data.errors import OptionError
from flax_bigbird.parallel.mesh_options import check_mesh_fits_model, parse_mesh, resolve_mesh


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (None, (8, 1, 1, 1)),
        ("data=8", (8, 1, 1, 1)),
        ("fsdp=8", (1, 8, 1, 1)),
        ("tensor=2", (4, 1, 1, 2)),
        (" tensor=2 , sequence=4", (1, 1, 4, 2)),
        ("fsdp=-1,tensor=2", (1, 4, 1, 2)),
        ("data=2,fsdp=2,tensor=2", (2, 2, 1, 2)),
        ("data=-1,fsdp=2", (4, 2, 1, 1)),
    ],
)
def test_meshes_of_eight_devices(text, sizes):
    expected = dict(zip(("data", "fsdp", "sequence", "tensor"), sizes, strict=True))
    assert resolve_mesh(text, 8) == expected
    assert list(resolve_mesh(text, 8)) == list(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pairs of an axis and its size; got ''"),
        ("8", "pairs of an axis and its size; got '8'"),
        ("data", "pairs of an axis and its size; got 'data'"),
        ("model=2", "among data, fsdp, sequence, tensor; got 'model'"),
        ("data=2,data=4", "must name an axis once; got data twice"),
        ("data=two", "whole number of at least 1, or -1 .* got data=two"),
        ("data=0", "got data=0"),
        ("fsdp=-2", "got fsdp=-2"),
        ("data=-1,fsdp=-1", "one axis of mesh may be -1"),
    ],
)
def test_texts_that_are_no_mesh(text, message):
    with pytest.raises(OptionError, match=message):
        parse_mesh(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data=4", "must multiply to the number of devices, 8; got 'data=4', which makes 4"),
        ("data=2,fsdp=8", "which makes 16"),
        ("fsdp=3", "must divide the number of devices, 8; got 'fsdp=3', which makes 3"),
    ],
)
def test_meshes_of_another_number_of_devices(text, message):
    with pytest.raises(OptionError, match=message):
        resolve_mesh(text, 8)


def test_axes_that_do_not_divide_a_model():
    config = SimpleNamespace(num_attention_heads=12, intermediate_size=3072, hidden_size=768)
    for text in ("tensor=4,fsdp=2", "tensor=2,fsdp=4", "data=8"):
        check_mesh_fits_model(resolve_mesh(text, 8), config)
    with pytest.raises(OptionError, match=r"tensor .* 12 attention heads; got tensor=8: choose"):
        check_mesh_fits_model(resolve_mesh("tensor=8", 8), config)
    with pytest.raises(OptionError, match=r"fsdp .* 768 units of the hidden states; got fsdp=5"):
        check_mesh_fits_model(resolve_mesh("fsdp=5", 5), config)
