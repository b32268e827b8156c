"""The rules that choose the random blocks of each row: `[N, M, R]` block ids, with -1 for none.

`flax_bigbird.nn.patterns` selects a rule for each call. The "hf" rule, which published checkpoints
use, draws blocks in training only: in evaluation, `bigbird_pattern(extra_first=R)` lists block 0 in
their place. The first and the last row of an encoder attend to everything and have no random
blocks. Each rule takes either one number of blocks, for a static pattern, or a traced number of
blocks for each example of a batch.
"""

from flax_bigbird.attention.patterns.random_blocks.hashed import fixed as fixed
from flax_bigbird.attention.patterns.random_blocks.published import clear_cache as clear_cache
from flax_bigbird.attention.patterns.random_blocks.published import google as google
from flax_bigbird.attention.patterns.random_blocks.published import hf_training as hf_training
from flax_bigbird.attention.patterns.random_blocks.uniform import redraw as redraw
