"""Checkpoints: names, formats, the Hub, atomic writes. Trees of arrays in and out, no models."""

from flax_bigbird.checkpoint.errors import CheckpointError as CheckpointError
from flax_bigbird.checkpoint.fitting import Fit as Fit
from flax_bigbird.checkpoint.fitting import fit as fit
from flax_bigbird.checkpoint.fitting import listing as listing
from flax_bigbird.checkpoint.hub import Source as Source
from flax_bigbird.checkpoint.reading import WEIGHT_FILES as WEIGHT_FILES
from flax_bigbird.checkpoint.reading import read_weights as read_weights
from flax_bigbird.checkpoint.writing import save as save
