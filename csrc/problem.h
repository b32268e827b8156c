// What one call computes, and the table of functions that each instruction set provides.
//
// Letters as in the Python package: B examples, T queries, S keys, N heads, H head width, W block
// size, K entries per row, G global rows. Queries are cut into M = T/W rows, keys into S/W blocks;
// the last row and the last block may be partially filled. T = S in self-attention.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "memory.h"

// Functions in headers are compiled once per instruction set. If one were not inlined, the linker
// would keep a single copy, perhaps one with instructions that this processor lacks.
#define BIGBIRD_INLINE inline __attribute__((always_inline))

namespace bigbird {

// The largest sizes that the kernels accept, in tokens and channels. Below them no index and no
// number of floats of a buffer exceeds 64 bits; `check_sizes` checks the products.
constexpr int64_t kMaxBlock = int64_t{1} << 20;
constexpr int64_t kMaxWidth = int64_t{1} << 20;
// The largest product of sizes: 2^56 items or floats, with room for strides and bytes.
constexpr int64_t kMaxProduct = int64_t{1} << 56;

// Returns the product of sizes that are not negative, or `limit` if it is larger.
inline int64_t bounded_product(std::initializer_list<int64_t> sizes, int64_t limit = INT64_MAX) {
  int64_t product = 1;
  for (const int64_t size : sizes)
    if (size == 0) return 0;
  for (const int64_t size : sizes)
    if (__builtin_mul_overflow(product, size, &product) || product > limit) return limit;
  return product;
}

enum class Type { kFloat32, kBfloat16 };

// q, out, ... [B, T, N, H] and k, v, ... [B, S, N, H], with strides in elements. The H channels of
// a head are contiguous.
struct Tensor {
  const void* data = nullptr;
  int64_t example_stride = 0;
  int64_t token_stride = 0;
  int64_t head_stride = 0;

  BIGBIRD_INLINE int64_t offset(int64_t example, int64_t token, int64_t head) const {
    return example * example_stride + token * token_stride + head * head_stride;
  }
};

struct Problem {
  int64_t examples, queries, keys, heads, width, block, rows, blocks, entries, global_slots;
  int64_t group;                            // examples per copy of the pattern (vmap)
  int64_t pattern_examples, pattern_heads;  // 1 (shared) or group, 1 or heads
  int64_t global_examples;
  bool causal;        // T = S
  bool mask_queries;  // T = S: masked tokens do not attend, and their output is 0
  float scale;        // multiplies the scores
  Type type;
  const uint8_t* mask;   // [B, S] or null
  const int32_t* lists;  // [B/group * pattern_examples, pattern_heads, M, K]
  const int32_t* counts;
  const int32_t* global_rows;  // [B/group * global_examples, G]

  Tensor q, k, v, out;
  float* lse;  // [B, N, T]: log2 of the sum of 2^score, with scores in units of log2; 0 if empty
  Tensor d_out, d_q, d_k, d_v;

  // Derived by `Prepared`.
  bool direct;  // forward: with few queries, the keys are not packed but read in place
  int64_t padded_block, padded_width;  // rounded up to a multiple of the vector
  const float* bias;              // [B, blocks, padded_block]: 0 if read, else kMaskedScore
  const uint8_t* states;          // [B, blocks]: a State
  const uint8_t* is_global;       // [B, M]
  const int32_t* unique_globals;  // [B, G]: global rows without repeats, then -1

  BIGBIRD_INLINE int64_t list_offset(int64_t example, int64_t head, int64_t row) const {
    int64_t index = example / group * pattern_examples;
    if (pattern_examples > 1) index += example % group;
    index = index * pattern_heads + (pattern_heads > 1 ? head : 0);
    return (index * rows + row) * entries;
  }
};

// Whether all, some or none of a block's keys are read: some need their bias, none are skipped.
enum State : uint8_t { kFull = 0, kPartial = 1, kEmpty = 2 };

constexpr float kMaskedScore = -1e30f;  // replaces the score of a key that is not read
constexpr float kMinRowMax = -1e20f;    // lower bound of a row's maximum: empty rows get weight 0
constexpr int64_t kTile = 64;      // queries, and about as many keys, per tile of scores

// The packed keys and values of one head, block after block.
struct Packed {
  float* keys_t;    // [blocks, H, padded_block]
  float* values;    // [blocks, W, padded_width] (forward)
  float* keys;      // [blocks, W, padded_width] (backward)
  float* values_t;  // [blocks, H, padded_block] (backward)
};

// The sums of a global row over some of its keys.
struct Accumulator {
  float* out;    // [W, padded_width], not normalized
  float* row_max;    // [W]
  float* total;  // [W]
};

// Sums over the rows of one part of a head.
struct Gradients {
  float* d_keys;     // [blocks, W, padded_width], for scores in units of log2
  float* d_values;   // [blocks, W, padded_width]
  uint8_t* touched;  // [blocks, key tiles]: whether the tile has been written
};

struct Kernels {
  const char* name;
  int64_t vector;  // floats per vector
  int64_t (*scratch)(const Problem&);  // floats that a thread needs
  // Packs blocks [first, last) of a head.
  void (*pack)(const Problem&, int64_t example, int64_t head, int64_t first, int64_t last,
               const Packed&, bool backward);
  // Computes `out` and `lse` of rows [first, last) of a head, except for global ones.
  void (*rows)(const Problem&, int64_t example, int64_t head, int64_t first, int64_t last,
               const Packed&, float* scratch);
  // Attends from a global row to blocks [first, last). It stores the sums in `partial`, or finishes
  // the row if that is null.
  void (*global_row)(const Problem&, int64_t example, int64_t head, int64_t row, int64_t first,
                     int64_t last, const Packed&, const Accumulator* partial, float* scratch);
  // Adds the parts of a global row in order and finishes it.
  void (*merge)(const Problem&, int64_t example, int64_t head, int64_t row,
                const Accumulator* parts, int64_t count, float* scratch);
  // Writes d_q of rows [first, last) of a head, global or not, and adds to the sums.
  void (*backward_rows)(const Problem&, int64_t example, int64_t head, int64_t first,
                        int64_t last, const Packed&, const Gradients&, float* scratch);
  // Adds the sums of all parts in order, for blocks [first, last), and writes d_k and d_v.
  void (*finish_gradients)(const Problem&, int64_t example, int64_t head, int64_t first,
                           int64_t last, const Gradients* parts, int64_t count,
                           float* scratch);
};

BIGBIRD_INLINE int64_t key_tiles(const Problem& p) { return (p.padded_block + kTile - 1) / kTile; }

// Returns why the kernels cannot run sizes that may be anything, with a remedy; "" if they can.
// It reads the sizes alone: pointers are checked by whoever knows how large the arrays are.
std::string check_sizes(const Problem& p);

// Owns the derived fields of a problem whose sizes were checked.
class Prepared {
 public:
  // Throws std::bad_alloc.
  Prepared(Problem& p, int64_t vector);
  // Returns false if a block id that counts, or a global row, does not exist.
  bool valid() const { return valid_; }

 private:
  Vector<float> bias_;
  Vector<uint8_t> states_, is_global_;
  Vector<int32_t> unique_globals_;
  bool valid_ = true;
};

// Returns the instruction sets that are compiled in and run here, best first.
const std::vector<const Kernels*>& available_kernels();
// Returns null if there is none of that name.
const Kernels* kernels_named(const char* name);

}  // namespace bigbird
