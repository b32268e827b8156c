// Checks the pattern, preprocesses the mask, and lists the kernels that run on this processor.
#include "problem.h"

#include <algorithm>
#include <cstring>

namespace bigbird {

extern const Kernels kPlainKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> available = [] {
    std::vector<const Kernels*> list;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2 && avx512) list.push_back(&kAvx512Kernels);
    if (avx2) list.push_back(&kAvx2Kernels);
#endif
    list.push_back(&kPlainKernels);
    return list;
  }();
  return available;
}

const Kernels* kernels_named(const char* name) {
  for (const Kernels* kernels : available_kernels())
    if (!*name || !std::strcmp(kernels->name, name)) return kernels;
  return nullptr;
}

std::string check_sizes(const Problem& p) {
  const struct {
    const char* name;
    int64_t value, least, most;
  } sizes[] = {
      {"the number of examples", p.examples, 0, kMaxProduct},
      {"the number of queries", p.queries, 0, kMaxProduct},
      {"the number of keys", p.keys, 0, kMaxProduct},
      {"the number of heads", p.heads, 0, kMaxProduct},
      {"the width of a head", p.width, 0, kMaxWidth},
      {"the block size", p.block, 1, kMaxBlock},
      {"the number of entries of a row", p.entries, 0, INT32_MAX},
      {"the number of global rows", p.global_slots, 0, INT32_MAX},
      {"the number of rows", p.rows, 0, INT32_MAX},
      {"the number of blocks", p.blocks, 0, INT32_MAX},
  };
  for (const auto& size : sizes)
    if (size.value < size.least || size.value > size.most)
      return std::string(size.name) + " must lie in " + std::to_string(size.least) + ".." +
             std::to_string(size.most) + "; got " + std::to_string(size.value) +
             ": use smaller arrays or another block size";
  const auto rows_of = [&](int64_t tokens) {
    return tokens / p.block + (tokens % p.block != 0);
  };
  if (rows_of(p.queries) != p.rows || rows_of(p.keys) != p.blocks)
    return "the pattern must have a row of " + std::to_string(p.block) + " tokens for each of " +
           std::to_string(p.queries) + " queries; got " + std::to_string(p.rows) +
           " rows: build the pattern for this length";
  // Every array, packed or partial, and every list has fewer floats than one of these products.
  const int64_t room = kTile + 16, wide = p.width + room, long_block = p.block + room;
  const int64_t tokens = (p.queries > p.keys ? p.queries : p.keys) + long_block;
  const int64_t largest[] = {
      bounded_product({p.examples, p.heads, tokens, wide}),
      bounded_product({p.heads, tokens, wide, 64}),
      bounded_product({p.blocks + 1, long_block, wide, 64}),
      bounded_product({p.examples, p.blocks + 1, long_block}),
      bounded_product({p.examples, p.heads + 1, p.rows + p.blocks + 1, 2}),
      bounded_product({p.examples, p.heads, p.global_slots + 1, p.blocks / 64 + 2}),
      bounded_product({p.global_slots + 1, p.blocks / 64 + 2, long_block, wide}),
      bounded_product({p.examples, p.global_slots + 1, p.rows + 1}),
      bounded_product({p.examples, p.heads, p.rows, p.entries + 1}),
  };
  for (const int64_t product : largest)
    if (product > kMaxProduct)
      return "the sizes of a call must have products of at most 2^56; got " +
             std::to_string(p.examples) + " examples of " + std::to_string(p.queries) +
             " queries and " + std::to_string(p.keys) + " keys, " + std::to_string(p.heads) +
             " heads of " + std::to_string(p.width) + " channels, blocks of " +
             std::to_string(p.block) + " tokens: use smaller arrays";
  return "";
}

Prepared::Prepared(Problem& p, int64_t vector) {
  p.direct = p.queries <= 8;
  p.padded_block = (p.block + vector - 1) / vector * vector;
  p.padded_width = (p.width + vector - 1) / vector * vector;

  const int64_t copies = p.group ? p.examples / p.group : 0;
  const int64_t listed = copies * p.pattern_examples * p.pattern_heads * p.rows * p.entries;
  for (int64_t i = 0; i < listed; ++i)
    valid_ &= p.counts[i] <= 0 || (p.lists[i] >= 0 && p.lists[i] < p.blocks);
  for (int64_t i = 0; i < copies * p.global_examples * p.global_slots; ++i)
    valid_ &= p.global_rows[i] >= 0 && p.global_rows[i] < p.rows;
  if (!valid_) return;

  is_global_.assign(p.examples * p.rows, 0);
  unique_globals_.assign(p.examples * p.global_slots, -1);
  states_.assign(p.examples * p.blocks, kFull);
  bias_.assign(p.examples * p.blocks * p.padded_block, kMaskedScore);
  for (int64_t example = 0; example < p.examples; ++example) {
    const int64_t index = example / p.group * p.global_examples +
                          (p.global_examples > 1 ? example % p.group : 0);
    int32_t* unique = unique_globals_.data() + example * p.global_slots;
    for (int64_t g = 0; g < p.global_slots; ++g) {
      const int32_t row = p.global_rows[index * p.global_slots + g];
      uint8_t& listed = is_global_[example * p.rows + row];
      if (!listed) *unique++ = row;
      listed = 1;
    }
    for (int64_t block = 0; block < p.blocks; ++block) {
      float* bias = bias_.data() + (example * p.blocks + block) * p.padded_block;
      const uint8_t* mask = p.mask ? p.mask + example * p.keys + block * p.block : nullptr;
      const int64_t keys = std::min(p.block, p.keys - block * p.block);
      int64_t readable = 0;
      for (int64_t w = 0; w < keys; ++w) {
        const bool read = !mask || mask[w];
        if (read) bias[w] = 0;
        readable += read;
      }
      if (!readable)
        states_[example * p.blocks + block] = kEmpty;
      else if (readable < p.padded_block)
        states_[example * p.blocks + block] = kPartial;
    }
  }
  p.bias = bias_.data();
  p.states = states_.data();
  p.is_global = is_global_.data();
  p.unique_globals = unique_globals_.data();
}

}  // namespace bigbird
