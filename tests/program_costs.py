"""What XLA reports about a compiled program: its operations and its temporary memory."""

import jax


def flops(program: jax.stages.Compiled) -> float:
    """Returns the number of floating-point operations of a run."""
    analysis = program.cost_analysis()
    assert analysis is not None, "this backend does not report costs"
    return analysis["flops"]


def temporary_bytes(program: jax.stages.Compiled) -> int:
    """Returns the bytes that a run needs besides its arguments and results."""
    analysis = program.memory_analysis()
    assert analysis is not None, "this backend does not report memory"
    return analysis.temp_size_in_bytes
