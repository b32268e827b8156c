// Runs work items on a pool of threads.
#include "schedule.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bigbird {
namespace {

struct Run {
  int64_t count, scratch_floats;
  const std::function<void(int64_t, float*)>* body;
  std::atomic<int64_t> next{0}, done{0};
  std::mutex mutex;
  std::condition_variable finished;

  // Takes items until none is left. A thread that starts late gets none and touches nothing.
  void work(float* scratch) {
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      (*body)(item, scratch);
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
        std::lock_guard<std::mutex> lock(mutex);
        finished.notify_all();
      }
    }
  }
};

}  // namespace

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

void run_items(const Pool& pool, int64_t count, int64_t scratch_floats,
               const std::function<void(int64_t, float*)>& body) {
  if (count <= 0) return;
  auto run = std::make_shared<Run>();
  run->count = count;
  run->scratch_floats = scratch_floats;
  run->body = &body;
  Buffer<float> scratch(scratch_floats);
  for (int64_t i = 1; i < std::min(pool.threads, count); ++i) {
    pool.schedule([run] {
      if (run->next.load(std::memory_order_relaxed) >= run->count) return;
      try {
        Buffer<float> own(run->scratch_floats);
        run->work(own.data());
      } catch (const std::bad_alloc&) {
        // The other threads do the work of this one.
      }
    });
  }
  run->work(scratch.data());
  std::unique_lock<std::mutex> lock(run->mutex);
  run->finished.wait(lock, [&] { return run->done.load(std::memory_order_acquire) == count; });
}

}  // namespace bigbird
