// Runs work items in a fixed order on a pool of threads that the caller provides.
//
// Items are handed out in order, so whatever an item waits for is done or is being computed by a
// running thread: it may wait by spinning, and no number of threads, not even one, can deadlock.
// What an item computes never depends on the thread, so results are bitwise identical
// for any number of threads.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>

namespace bigbird {

struct Pool {
  int64_t threads = 1;  // including the caller
  std::function<void(std::function<void()>)> schedule;
};

// Runs body(item, scratch) for items 0..count-1 and returns when all are done. `scratch` is
// 64-byte aligned and belongs to one thread. Throws std::bad_alloc if the caller has no memory.
void run_items(const Pool& pool, int64_t count, int64_t scratch_floats,
               const std::function<void(int64_t, float*)>& body);

// Asks for large pages under memory that is about to be written for the first time: at T=65536 page
// faults would take a tenth of the time.
void prefer_large_pages(void* data, size_t bytes);

// Uninitialized memory, 64-byte aligned.
template <typename T>
class Buffer {
 public:
  // Throws std::bad_alloc if there is no memory, or for a size that no memory has.
  explicit Buffer(int64_t size) {
    if (size < 0 || size > (INT64_MAX - 64) / static_cast<int64_t>(sizeof(T)))
      throw std::bad_alloc();
    const size_t bytes = (static_cast<size_t>(size) * sizeof(T) + 63) / 64 * 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes ? bytes : 64)));
    if (!data_) throw std::bad_alloc();
    prefer_large_pages(data_.get(), bytes);
  }
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace bigbird
