"""The names of the axes of a device mesh, in the order in which meshes have them."""

DATA = "data"
"""Each device along it has other examples, and all parameters."""
FSDP = "fsdp"
"""Each device along it has other examples, and a part of each parameter (fully sharded)."""
SEQUENCE = "sequence"
"""Each device along it has other tokens of the same examples."""
TENSOR = "tensor"
"""Each device along it has other attention heads, and other units of the feed-forward layers."""

MESH_AXES = (DATA, FSDP, SEQUENCE, TENSOR)
ROW_AXES = (DATA, FSDP)
"""The axes that the examples of a batch are split over."""
