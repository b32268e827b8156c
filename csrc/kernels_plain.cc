// The kernels for every processor: SSE2 on x86-64, NEON on arm64.
#include <math.h>
#include <string.h>

#include "problem.h"

// NEON has 32 registers, SSE2 has 16.
#if defined(__aarch64__)
#define TILE_ROWS 8
#else
#define TILE_ROWS 6
#endif
#define VECTOR 4

namespace bigbird {
namespace {
#include "tiles.inc"

#include "forward.inc"

#include "backward.inc"
}  // namespace

extern const Kernels kPlainKernels;
const Kernels kPlainKernels = {"plain",    VECTOR, scratch,       pack,            rows,
                              global_row, merge,  backward_rows, finish_gradients};
}  // namespace bigbird
