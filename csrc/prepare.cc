// Checks the pattern and digests the mask; names the kernels that run here.
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
  static const std::vector<const Kernels*> found = [] {
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
  return found;
}

const Kernels* kernels_named(const char* name) {
  for (const Kernels* kernels : available_kernels())
    if (!*name || !std::strcmp(kernels->name, name)) return kernels;
  return nullptr;
}

Prepared::Prepared(Problem& p, int64_t vector) {
  p.direct = p.queries <= 8;
  p.padded_block = (p.block + vector - 1) / vector * vector;
  p.padded_width = (p.width + vector - 1) / vector * vector;

  const int64_t copies = p.group ? p.documents / p.group : 0;
  const int64_t listed = copies * p.pattern_documents * p.pattern_heads * p.rows * p.entries;
  for (int64_t i = 0; i < listed; ++i)
    valid_ &= p.counts[i] <= 0 || (p.lists[i] >= 0 && p.lists[i] < p.blocks);
  for (int64_t i = 0; i < copies * p.global_documents * p.global_slots; ++i)
    valid_ &= p.global_rows[i] >= 0 && p.global_rows[i] < p.rows;
  if (!valid_) return;

  is_global_.assign(p.documents * p.rows, 0);
  unique_globals_.assign(p.documents * p.global_slots, -1);
  states_.assign(p.documents * p.blocks, kWhole);
  bias_.assign(p.documents * p.blocks * p.padded_block, kUnread);
  for (int64_t document = 0; document < p.documents; ++document) {
    const int64_t index = document / p.group * p.global_documents +
                          (p.global_documents > 1 ? document % p.group : 0);
    int32_t* unique = unique_globals_.data() + document * p.global_slots;
    for (int64_t g = 0; g < p.global_slots; ++g) {
      const int32_t row = p.global_rows[index * p.global_slots + g];
      uint8_t& seen = is_global_[document * p.rows + row];
      if (!seen) *unique++ = row;
      seen = 1;
    }
    for (int64_t block = 0; block < p.blocks; ++block) {
      float* bias = bias_.data() + (document * p.blocks + block) * p.padded_block;
      const uint8_t* mask = p.mask ? p.mask + document * p.keys + block * p.block : nullptr;
      const int64_t keys = std::min(p.block, p.keys - block * p.block);
      int64_t readable = 0;
      for (int64_t w = 0; w < keys; ++w) {
        const bool read = !mask || mask[w];
        if (read) bias[w] = 0;
        readable += read;
      }
      if (!readable)
        states_[document * p.blocks + block] = kEmpty;
      else if (readable < p.padded_block)
        states_[document * p.blocks + block] = kPartial;
    }
  }
  p.bias = bias_.data();
  p.states = states_.data();
  p.is_global = is_global_.data();
  p.unique_globals = unique_globals_.data();
}

}  // namespace bigbird
