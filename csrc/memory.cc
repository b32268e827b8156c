// Allocates memory.
#include "memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bigbird {

void prefer_large_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t start = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (start + kPage - 1) / kPage * kPage;
  const uintptr_t last = (start + bytes) / kPage * kPage;
  if (last >= first + 16 * kPage)
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

void* allocate(size_t count, size_t item_bytes) {
  constexpr size_t kMost = INT64_MAX - 64;
  if (count > kMost / item_bytes) throw OutOfMemory(kMost);
  const size_t lines = (count * item_bytes + 63) / 64;
  const size_t bytes = 64 * (lines ? lines : 1);
  void* data = std::aligned_alloc(64, bytes);
  if (!data) throw OutOfMemory(bytes);
  prefer_large_pages(data, bytes);
  return data;
}

}  // namespace bigbird
