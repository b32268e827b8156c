// Memory whose failed allocations say how many bytes were asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace bigbird {

class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(size_t bytes) : bytes(bytes) {}
  const size_t bytes;
};

// Asks for large pages under memory that is about to be written for the first time: at T=65536 page
// faults would take a tenth of the time.
void prefer_large_pages(void* data, size_t bytes);

// Returns uninitialized memory for items of some bytes each, 64-byte aligned, which std::free
// releases. Throws OutOfMemory, also for a size that no memory has.
void* allocate(size_t count, size_t item_bytes);

// Uninitialized memory, 64-byte aligned.
template <typename T>
class Buffer {
 public:
  // Throws OutOfMemory. A negative size is one that no memory has.
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(allocate(static_cast<size_t>(size), sizeof(T)))) {}
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

template <typename T>
struct Allocator {
  using value_type = T;
  Allocator() = default;
  template <typename Other>
  Allocator(const Allocator<Other>&) {}
  T* allocate(size_t count) { return static_cast<T*>(bigbird::allocate(count, sizeof(T))); }
  void deallocate(T* p, size_t) { std::free(p); }
  friend bool operator==(const Allocator&, const Allocator&) { return true; }
  friend bool operator!=(const Allocator&, const Allocator&) { return false; }
};

// A std::vector that throws OutOfMemory.
template <typename T>
using Vector = std::vector<T, Allocator<T>>;

}  // namespace bigbird
