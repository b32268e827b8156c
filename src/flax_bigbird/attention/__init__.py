"""Block-sparse and full attention as pure functions: arrays and a pattern in, arrays out."""

from flax_bigbird.attention import inspection as inspection
from flax_bigbird.attention import sparse_maps as sparse_maps
from flax_bigbird.attention.api import BLOCK_SPARSE_IMPLEMENTATIONS as BLOCK_SPARSE_IMPLEMENTATIONS
from flax_bigbird.attention.api import available_implementations as available_implementations
from flax_bigbird.attention.api import block_sparse_attention as block_sparse_attention
from flax_bigbird.attention.full import FULL_IMPLEMENTATIONS as FULL_IMPLEMENTATIONS
from flax_bigbird.attention.full import (
    available_full_implementations as available_full_implementations,
)
from flax_bigbird.attention.full import full_attention as full_attention
from flax_bigbird.attention.inspection import attention_probabilities as attention_probabilities
from flax_bigbird.attention.manual_axes import vary_together as vary_together
from flax_bigbird.attention.mesh_axes import current_mesh_axes as current_mesh_axes
from flax_bigbird.attention.mesh_axes import num_token_shards as num_token_shards
from flax_bigbird.attention.mesh_axes import pad_axis as pad_axis
from flax_bigbird.attention.numerics import masked_softmax as masked_softmax
from flax_bigbird.attention.numerics import zero_masked as zero_masked
from flax_bigbird.attention.patterns import BlockPattern as BlockPattern
from flax_bigbird.attention.patterns import Layout as Layout
from flax_bigbird.attention.patterns import add_global_blocks as add_global_blocks
from flax_bigbird.attention.patterns import bigbird_pattern as bigbird_pattern
from flax_bigbird.attention.patterns import block_segment_ids as block_segment_ids
from flax_bigbird.attention.patterns import count_example_blocks as count_example_blocks
from flax_bigbird.attention.patterns import full_pattern as full_pattern
from flax_bigbird.attention.patterns import packed_causal_pattern as packed_causal_pattern
from flax_bigbird.attention.patterns import packed_full_pattern as packed_full_pattern
from flax_bigbird.attention.patterns import random_blocks as random_blocks
from flax_bigbird.attention.patterns import (
    read_short_examples_in_full as read_short_examples_in_full,
)
from flax_bigbird.attention.patterns import user_global_blocks as user_global_blocks
from flax_bigbird.attention.residuals import RESIDUALS as RESIDUALS
from flax_bigbird.attention.sharded import (
    sharded_block_sparse_attention as sharded_block_sparse_attention,
)
from flax_bigbird.attention.sharded import sharded_full_attention as sharded_full_attention
