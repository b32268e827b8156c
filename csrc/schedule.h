// Runs work items in a fixed order on a pool of threads that the caller provides.
//
// Items are handed out in order, so whatever an item waits for is done or is being computed by a
// running thread: it may wait by spinning, and no number of threads, not even one, can deadlock.
// What an item computes never depends on the thread, so results are bitwise identical
// for any number of threads.
//
// An item may throw. The items after it are then skipped, and the caller gets the first exception
// once no thread is inside an item: what the items use may be on the caller's stack.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace bigbird {

struct Pool {
  int64_t threads = 1;  // including the caller
  std::function<void(std::function<void()>)> schedule;
};

// Computes an item. `scratch` is 64-byte aligned and belongs to one thread. `failed` turns true
// when any item has thrown: an item that waits for another must then return, because the other may
// have been skipped.
using Body =
    std::function<void(int64_t item, float* scratch, const std::atomic<bool>& failed)>;

// Runs the body for items 0..count-1 and returns when all are done. Throws std::bad_alloc if the
// caller has no memory, and what an item throws. A thread that has no memory, or that cannot be
// scheduled, leaves its work to the others.
void run_items(const Pool& pool, int64_t count, int64_t scratch_floats, const Body& body);

}  // namespace bigbird
