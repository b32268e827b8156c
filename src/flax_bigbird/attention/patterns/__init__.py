"""Which key blocks each row of query blocks reads: the patterns of block-sparse attention."""

from flax_bigbird.attention.patterns import random_blocks as random_blocks
from flax_bigbird.attention.patterns.bigbird import bigbird_pattern as bigbird_pattern
from flax_bigbird.attention.patterns.bigbird import full_pattern as full_pattern
from flax_bigbird.attention.patterns.block_pattern import BlockPattern as BlockPattern
from flax_bigbird.attention.patterns.layout import Layout as Layout
from flax_bigbird.attention.patterns.packed import block_segment_ids as block_segment_ids
from flax_bigbird.attention.patterns.packed import packed_causal_pattern as packed_causal_pattern
from flax_bigbird.attention.patterns.packed import packed_full_pattern as packed_full_pattern
from flax_bigbird.attention.patterns.per_example import (
    count_example_blocks as count_example_blocks,
)
from flax_bigbird.attention.patterns.per_example import (
    read_short_examples_in_full as read_short_examples_in_full,
)
from flax_bigbird.attention.patterns.user_global import add_global_blocks as add_global_blocks
from flax_bigbird.attention.patterns.user_global import user_global_blocks as user_global_blocks
