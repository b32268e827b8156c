// What one call computes, and the table of functions that each instruction set fills in.
//
// Letters as in the Python package: B documents, T queries, S keys, N heads, H head width, W block
// size, K entries of a row's list, G global rows. Queries are cut into M = T/W rows, keys into S/W
// blocks; the last row and the last block may be part full. T = S wherever tokens attend to
// themselves.
#pragma once

#include <cstdint>
#include <vector>

// Functions in headers are compiled once per instruction set. Were one left out of line, the linker
// would keep a single copy, maybe one with instructions this processor lacks.
#define BIGBIRD_INLINE inline __attribute__((always_inline))

namespace bigbird {

enum class Type { kFloat32, kBfloat16 };

// q, out, ... [B, T, N, H] and k, v, ... [B, S, N, H] with strides counted in elements; heads are contiguous inside.
struct Tensor {
  const void* data = nullptr;
  int64_t document_stride = 0;
  int64_t token_stride = 0;
  int64_t head_stride = 0;

  BIGBIRD_INLINE int64_t offset(int64_t document, int64_t token, int64_t head) const {
    return document * document_stride + token * token_stride + head * head_stride;
  }
};

struct Problem {
  int64_t documents, queries, keys, heads, width, block, rows, blocks, entries, global_slots;
  int64_t group;                            // documents that one copy of the pattern covers (vmap)
  int64_t pattern_documents, pattern_heads;  // 1 (shared) or group, 1 or heads
  int64_t global_documents;
  bool causal;        // T = S
  bool mask_queries;  // T = S: masked tokens do not attend either, their output is 0
  float scale;        // of the scores
  Type type;
  const uint8_t* mask;   // [B, S] or null
  const int32_t* lists;  // [B/group * pattern_documents, pattern_heads, M, K]
  const int32_t* counts;
  const int32_t* global_rows;  // [B/group * global_documents, G]

  Tensor q, k, v, out;
  float* lse;  // [B, N, T]: log2 of the sum of 2^score, scores in units of log2; 0 where empty
  Tensor d_out, d_q, d_k, d_v;

  // Derived, by `Prepared`.
  bool direct;  // forward: too few queries for packing the keys to pay; they are read in place
  int64_t padded_block, padded_width;  // rounded up to a whole vector
  const float* bias;              // [B, blocks, padded_block]: 0 for a key to read, else kUnread
  const uint8_t* states;          // [B, blocks]: a State
  const uint8_t* is_global;       // [B, M]
  const int32_t* unique_globals;  // [B, G]: global rows without repeats, then -1

  BIGBIRD_INLINE int64_t list_offset(int64_t document, int64_t head, int64_t row) const {
    int64_t index = document / group * pattern_documents;
    if (pattern_documents > 1) index += document % group;
    index = index * pattern_heads + (pattern_heads > 1 ? head : 0);
    return (index * rows + row) * entries;
  }
};

// What a block's keys need: nothing, their bias added, or not to be visited at all.
enum State : uint8_t { kWhole = 0, kPartial = 1, kEmpty = 2 };

constexpr float kUnread = -1e30f;  // score of a key that is not read
constexpr float kFloor = -1e20f;   // lower bound of a row's maximum: empty rows keep weight 0
constexpr int64_t kTile = 64;      // queries, and about as many keys, in one tile of scores

// One head's keys and values, packed; blocks follow each other.
struct Packed {
  float* keys_t;    // [blocks, H, padded_block]
  float* values;    // [blocks, W, padded_width] (forward)
  float* keys;      // [blocks, W, padded_width] (backward)
  float* values_t;  // [blocks, H, padded_block] (backward)
};

// The sums of a global row over some of its keys.
struct Accumulator {
  float* out;    // [W, padded_width], not normalised
  float* top;    // [W]
  float* total;  // [W]
};

// Sums over the rows of one part of a head.
struct Gradients {
  float* d_keys;     // [blocks, W, padded_width], of the scores in units of log2
  float* d_values;   // [blocks, W, padded_width]
  uint8_t* touched;  // [blocks, key tiles]: whether the tile has been written at all
};

struct Kernels {
  const char* name;
  int64_t vector;  // floats in a vector
  int64_t (*scratch)(const Problem&);  // floats a thread needs
  // Packs blocks [first, last) of a head.
  void (*pack)(const Problem&, int64_t document, int64_t head, int64_t first, int64_t last,
               const Packed&, bool backward);
  // Rows [first, last) of a head that are not global, from lists to `out` and `lse`.
  void (*rows)(const Problem&, int64_t document, int64_t head, int64_t first, int64_t last,
               const Packed&, float* scratch);
  // A global row against blocks [first, last); with `partial` the sums are stored, else finished.
  void (*global_row)(const Problem&, int64_t document, int64_t head, int64_t row, int64_t first,
                     int64_t last, const Packed&, const Accumulator* partial, float* scratch);
  // Adds up the parts of a global row in order and finishes it.
  void (*merge)(const Problem&, int64_t document, int64_t head, int64_t row,
                const Accumulator* parts, int64_t count, float* scratch);
  // Rows [first, last) of a head, global or not: writes d_q, adds to the sums.
  void (*backward_rows)(const Problem&, int64_t document, int64_t head, int64_t first,
                        int64_t last, const Packed&, const Gradients&, float* scratch);
  // Adds up the parts' sums of blocks [first, last) in order and writes d_k and d_v.
  void (*finish_gradients)(const Problem&, int64_t document, int64_t head, int64_t first,
                           int64_t last, const Gradients* parts, int64_t count,
                           float* scratch);
};

BIGBIRD_INLINE int64_t key_tiles(const Problem& p) { return (p.padded_block + kTile - 1) / kTile; }

// Owns a problem's derived fields.
class Prepared {
 public:
  Prepared(Problem& p, int64_t vector);
  // False if a block id that counts, or a global row, names none there is.
  bool valid() const { return valid_; }

 private:
  std::vector<float> bias_;
  std::vector<uint8_t> states_, is_global_;
  std::vector<int32_t> unique_globals_;
  bool valid_ = true;
};

// Instruction sets compiled in and supported here, best first. `kernels_named` may return null.
const std::vector<const Kernels*>& available_kernels();
const Kernels* kernels_named(const char* name);

}  // namespace bigbird
