// Orders the work: one head after another, each packed while the previous one is computed.
//
// Step s of the order holds the packing of head s and then the rows of head s-1. Packed heads are
// kept in a ring of slots, so memory does not grow with B*N, and what is packed is still in a cache
// when it is read.
#include "attention.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "memory.h"

namespace bigbird {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

// Waits until a counter has reached a value. Returns false if an item fails before.
bool wait_for(const std::atomic<int64_t>& counter, int64_t value,
              const std::atomic<bool>& failed) {
  while (counter.load(std::memory_order_acquire) < value) {
    if (failed.load(std::memory_order_relaxed)) return false;
    std::this_thread::yield();
  }
  return true;
}

int64_t count_up(std::atomic<int64_t>& counter) {
  return counter.fetch_add(1, std::memory_order_acq_rel) + 1;
}

// How a call is cut into work items: by its shapes alone, never by the number of threads.
struct WorkPlan {
  int64_t heads;           // B * N
  int64_t pack_blocks;     // blocks that one item packs
  int64_t packs;           // items that pack a head
  int64_t slots;           // heads in flight, which may depend on the threads
  Vector<std::atomic<int64_t>> packed, finished;  // items that are done, per head

  WorkPlan(const Problem& p, int64_t slots)
      : heads(p.examples * p.heads),
        pack_blocks(std::max<int64_t>(1, 65536 / bounded_product({p.block, p.width}))),
        packs(ceil_div(p.blocks, pack_blocks)),
        slots(std::min(slots, heads)),
        packed(heads),
        finished(heads) {}

  // Packs the blocks of one item of `head`, as soon as its slot is free.
  void pack(const Problem& p, const Kernels& kernels, int64_t head, int64_t item,
            int64_t items_per_head, const Packed& to, bool backward,
            const std::atomic<bool>& failed) {
    if (head >= slots && !wait_for(finished[head - slots], items_per_head, failed)) return;
    const int64_t first = item * pack_blocks;
    kernels.pack(p, head / p.heads, head % p.heads, first,
                 std::min(first + pack_blocks, p.blocks), to, backward);
    count_up(packed[head]);
  }
};

}  // namespace

void forward(const Problem& p, const Kernels& kernels, const Pool& pool) {
  const int64_t key_floats = p.blocks * p.width * p.padded_block;
  const int64_t value_floats = p.blocks * p.block * p.padded_width;

  // Items of one head: parts of the global rows, then chunks of ordinary rows (about 2 MFLOP).
  const int64_t key_parts =
      p.global_slots <= 4 ? std::max<int64_t>(1, ceil_div(p.blocks, 64)) : 1;
  const int64_t row_flops =
      bounded_product({4, p.block, p.block, p.width, std::max<int64_t>(p.entries, 1)});
  const int64_t chunk_rows = std::clamp<int64_t>((int64_t{2} << 20) / row_flops, 1, p.rows);
  const int64_t row_chunks = ceil_div(p.rows, chunk_rows);
  const int64_t global_items = p.global_slots * key_parts;
  const int64_t row_items = global_items + row_chunks;

  WorkPlan plan(p, 3 + pool.threads / row_items);
  Buffer<float> keys(plan.slots * key_floats), values(plan.slots * value_floats);
  const int64_t part_floats = p.block * (p.padded_width + 2);
  const int64_t stored = key_parts > 1 ? plan.slots * global_items * part_floats : 0;
  Buffer<float> sums(stored);
  Vector<std::atomic<int64_t>> parts_done(plan.heads * p.global_slots);

  auto packed = [&](int64_t head) {
    const int64_t slot = head % plan.slots;
    return Packed{keys.data() + slot * key_floats, values.data() + slot * value_floats, nullptr,
                  nullptr};
  };
  auto accumulator = [&](int64_t head, int64_t item) {
    float* at = sums.data() + (head % plan.slots * global_items + item) * part_floats;
    float* row_max = at + p.block * p.padded_width;
    return Accumulator{at, row_max, row_max + p.block};
  };
  auto global_part = [&](int64_t head, int64_t item, float* scratch) {
    const int64_t example = head / p.heads, n = head % p.heads, slot = item / key_parts;
    const int64_t row = p.unique_globals[example * p.global_slots + slot];
    if (row < 0) return;
    const int64_t size = ceil_div(p.blocks, key_parts), first = item % key_parts * size;
    const int64_t last = std::min(first + size, p.blocks);
    if (key_parts == 1)
      return kernels.global_row(p, example, n, row, first, last, packed(head), nullptr, scratch);
    const Accumulator mine = accumulator(head, item);
    kernels.global_row(p, example, n, row, first, last, packed(head), &mine, scratch);
    if (count_up(parts_done[head * p.global_slots + slot]) < key_parts) return;
    Vector<Accumulator> parts;
    for (int64_t i = 0; i < key_parts; ++i)
      parts.push_back(accumulator(head, slot * key_parts + i));
    kernels.merge(p, example, n, row, parts.data(), key_parts, scratch);
  };

  const int64_t per_step = plan.packs + row_items;
  const auto compute = [&](int64_t i, float* scratch, const std::atomic<bool>& failed) {
    const int64_t step = i / per_step, item = i % per_step - plan.packs;
    if (item < 0) {
      if (step < plan.heads)
        plan.pack(p, kernels, step, item + plan.packs, row_items, packed(step), false, failed);
      return;
    }
    const int64_t head = step - 1;
    if (head < 0) return;
    if (!wait_for(plan.packed[head], plan.packs, failed)) return;
    if (item < global_items) {
      global_part(head, item, scratch);
    } else {
      const int64_t first = (item - global_items) * chunk_rows;
      kernels.rows(p, head / p.heads, head % p.heads, first, std::min(first + chunk_rows, p.rows),
                   packed(head), scratch);
    }
    count_up(plan.finished[head]);
  };
  run_items(pool, (plan.heads + 1) * per_step, kernels.scratch(p), compute);
}

void backward(const Problem& p, const Kernels& kernels, const Pool& pool) {
  const int64_t key_floats = p.blocks * p.width * p.padded_block;
  const int64_t value_floats = p.blocks * p.block * p.padded_width;
  const int64_t flags = p.blocks * key_tiles(p);

  // With few heads, each is cut into parts with their own sums, which are added in order.
  const int64_t parts =
      std::min(std::clamp<int64_t>(24 / (p.examples * p.heads), 1, 8), p.rows);
  const int64_t part_rows = ceil_div(p.rows, parts);

  WorkPlan plan(p, 2 + ceil_div(pool.threads, parts));
  Buffer<float> across(plan.slots * 2 * key_floats), along(plan.slots * value_floats);
  Buffer<float> sums(plan.slots * parts * 2 * value_floats);
  Buffer<uint8_t> touched(plan.slots * parts * flags);
  Vector<std::atomic<int64_t>> parts_done(plan.heads);

  auto packed = [&](int64_t head) {
    const int64_t slot = head % plan.slots;
    float* at = across.data() + slot * 2 * key_floats;
    return Packed{at, nullptr, along.data() + slot * value_floats, at + key_floats};
  };
  auto gradients = [&](int64_t head, int64_t part) {
    const int64_t index = head % plan.slots * parts + part;
    float* at = sums.data() + index * 2 * value_floats;
    return Gradients{at, at + value_floats, touched.data() + index * flags};
  };

  const int64_t per_step = plan.packs + parts;
  const auto compute = [&](int64_t i, float* scratch, const std::atomic<bool>& failed) {
    const int64_t step = i / per_step, part = i % per_step - plan.packs;
    if (part < 0) {
      if (step < plan.heads)
        plan.pack(p, kernels, step, part + plan.packs, parts, packed(step), true, failed);
      return;
    }
    const int64_t head = step - 1;
    if (head < 0) return;
    if (!wait_for(plan.packed[head], plan.packs, failed)) return;
    const int64_t example = head / p.heads, n = head % p.heads;
    const Gradients mine = gradients(head, part);
    std::fill(mine.touched, mine.touched + flags, uint8_t{0});
    kernels.backward_rows(p, example, n, std::min(part * part_rows, p.rows),
                          std::min((part + 1) * part_rows, p.rows), packed(head), mine, scratch);
    if (count_up(parts_done[head]) == parts) {
      Vector<Gradients> all;
      for (int64_t j = 0; j < parts; ++j) all.push_back(gradients(head, j));
      kernels.finish_gradients(p, example, n, 0, p.blocks, all.data(), parts, scratch);
    }
    count_up(plan.finished[head]);
  };
  run_items(pool, (plan.heads + 1) * per_step, kernels.scratch(p), compute);
}

}  // namespace bigbird
