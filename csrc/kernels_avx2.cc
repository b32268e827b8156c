// The kernels for AVX2.
#include <math.h>
#include <string.h>

#include "problem.h"

#if defined(__x86_64__)
// From here to the end of the file. The headers above are shared and must not be affected.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define VECTOR 8
#define TILE_ROWS 6

namespace bigbird {
namespace {
#include "tiles.inc"

#include "forward.inc"

#include "backward.inc"
}  // namespace

extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels = {"avx2",    VECTOR, scratch,       pack,            rows,
                              global_row, merge,  backward_rows, finish_gradients};
}  // namespace bigbird

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // __x86_64__
