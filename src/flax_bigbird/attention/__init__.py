"""Block-sparse attention as pure functions: arrays and a pattern in, arrays out."""

from flax_bigbird.attention.api import available_implementations as available_implementations
from flax_bigbird.attention.api import block_sparse_attention as block_sparse_attention
from flax_bigbird.attention.document_pattern import (
    bigbird_pattern_by_document as bigbird_pattern_by_document,
)
from flax_bigbird.attention.document_pattern import chosen_blocks as chosen_blocks
from flax_bigbird.attention.document_pattern import with_global_blocks as with_global_blocks
from flax_bigbird.attention.full import (
    available_full_implementations as available_full_implementations,
)
from flax_bigbird.attention.full import full_attention as full_attention
from flax_bigbird.attention.packed_pattern import packed_as_alone as packed_as_alone
from flax_bigbird.attention.packed_pattern import packed_in_full as packed_in_full
from flax_bigbird.attention.packed_pattern import segments_of_blocks as segments_of_blocks
from flax_bigbird.attention.pattern import BlockPattern as BlockPattern
from flax_bigbird.attention.pattern import Layout as Layout
from flax_bigbird.attention.pattern import bigbird_pattern as bigbird_pattern
