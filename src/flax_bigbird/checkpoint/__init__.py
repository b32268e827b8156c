"""Loads and saves checkpoints: parameter names, file formats, the Hub and atomic writes.

This package converts between files and flat trees of arrays. It knows nothing about models.
"""

from flax_bigbird.checkpoint.atomic import atomic_directory as atomic_directory
from flax_bigbird.checkpoint.atomic import atomic_write_bytes as atomic_write_bytes
from flax_bigbird.checkpoint.atomic import atomic_write_text as atomic_write_text
from flax_bigbird.checkpoint.atomic import partial_directory as partial_directory
from flax_bigbird.checkpoint.atomic import partial_file as partial_file
from flax_bigbird.checkpoint.atomic import recover_directory as recover_directory
from flax_bigbird.checkpoint.checksums import CHECKSUM_FILE as CHECKSUM_FILE
from flax_bigbird.checkpoint.checksums import find_damage as find_damage
from flax_bigbird.checkpoint.checksums import has_checksums as has_checksums
from flax_bigbird.checkpoint.checksums import write_checksums as write_checksums
from flax_bigbird.checkpoint.errors import CheckpointError as CheckpointError
from flax_bigbird.checkpoint.errors import CheckpointWarning as CheckpointWarning
from flax_bigbird.checkpoint.hub import Source as Source
from flax_bigbird.checkpoint.loading import WEIGHT_FILES as WEIGHT_FILES
from flax_bigbird.checkpoint.loading import load_file as load_file
from flax_bigbird.checkpoint.loading import load_weights as load_weights
from flax_bigbird.checkpoint.locks import LOCK_FILE as LOCK_FILE
from flax_bigbird.checkpoint.locks import DirectoryInUseError as DirectoryInUseError
from flax_bigbird.checkpoint.locks import lock_directory as lock_directory
from flax_bigbird.checkpoint.matching import MatchedParams as MatchedParams
from flax_bigbird.checkpoint.matching import format_paths as format_paths
from flax_bigbird.checkpoint.matching import match_params as match_params
from flax_bigbird.checkpoint.names import Flat as Flat
from flax_bigbird.checkpoint.saving import remove_staging_directories as remove_staging_directories
from flax_bigbird.checkpoint.saving import save_checkpoint as save_checkpoint
from flax_bigbird.checkpoint.saving import weight_file_patterns as weight_file_patterns
