// The forward and the backward pass of a whole call, on a pool of threads.
#pragma once

#include "problem.h"
#include "schedule.h"

namespace bigbird {

// Writes `out` and `lse`. Throws std::bad_alloc, as soon as no thread uses the problem.
void forward(const Problem& p, const Kernels& kernels, const Pool& pool);

// Reads `out`, `lse` and `d_out`, writes `d_q`, `d_k`, `d_v`. Throws like `forward`.
void backward(const Problem& p, const Kernels& kernels, const Pool& pool);

}  // namespace bigbird
