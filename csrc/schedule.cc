// Runs work items on a pool of threads.
#include "schedule.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "memory.h"

namespace bigbird {
namespace {

struct Run {
  int64_t count, scratch_floats;
  const Body* body;
  std::atomic<int64_t> next{0}, done{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::exception_ptr error;  // the first one, under the mutex
  std::condition_variable finished;

  // Takes items until none is left. A thread that starts late gets none and touches nothing.
  void work(float* scratch) noexcept {
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      compute(item, scratch);
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
        std::lock_guard<std::mutex> lock(mutex);
        finished.notify_all();
      }
    }
  }

  // An exception that left a thread of the pool would end the process; an item that is not counted
  // as done would keep the caller waiting.
  void compute(int64_t item, float* scratch) noexcept {
    if (failed.load(std::memory_order_relaxed)) return;
    try {
      (*body)(item, scratch, failed);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
      failed.store(true, std::memory_order_relaxed);
    }
  }
};

}  // namespace

void run_items(const Pool& pool, int64_t count, int64_t scratch_floats, const Body& body) {
  if (count <= 0) return;
  auto run = std::make_shared<Run>();
  run->count = count;
  run->scratch_floats = scratch_floats;
  run->body = &body;
  Buffer<float> scratch(scratch_floats);
  const auto help = [run] {
    if (run->next.load(std::memory_order_relaxed) >= run->count) return;
    try {
      Buffer<float> own(run->scratch_floats);
      run->work(own.data());
    } catch (const std::bad_alloc&) {
      // The other threads do the work of this one.
    }
  };
  try {
    for (int64_t i = 1; i < std::min(pool.threads, count); ++i) pool.schedule(help);
  } catch (const std::exception&) {
    // No memory for a task. The threads that have started use the caller's stack, so it must not
    // return; the threads that are left do the work.
  }
  run->work(scratch.data());
  std::exception_ptr error;
  {
    std::unique_lock<std::mutex> lock(run->mutex);
    run->finished.wait(lock, [&] { return run->done.load(std::memory_order_acquire) == count; });
    error = std::move(run->error);
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace bigbird
