"""The rules that say which random blocks a row reads: `[N, M, R]` block ids, with -1 for none.

The first and the last row of an encoder read everything and have no random blocks. Each rule takes
either one number of blocks, for a static pattern, or a traced one for each example of a batch.
"""

from flax_bigbird.attention.patterns.random_blocks.hashed import fixed as fixed
from flax_bigbird.attention.patterns.random_blocks.published import clear_cache as clear_cache
from flax_bigbird.attention.patterns.random_blocks.published import google as google
from flax_bigbird.attention.patterns.random_blocks.published import hf_training as hf_training
from flax_bigbird.attention.patterns.random_blocks.uniform import redraw as redraw
