// The order of the work: heads one after another, each packed while the one before is computed.
//
// Step s of the order holds the packing of head s and then the rows of head s-1. Packed heads live
// in a ring of slots, so memory does not grow with B*N, and what is packed is still in a cache when
// it is read.
#include "attention.h"

#include <algorithm>
#include <atomic>
#include <thread>

namespace bigbird {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void wait_for(const std::atomic<int64_t>& counter, int64_t value) {
  while (counter.load(std::memory_order_acquire) < value) std::this_thread::yield();
}

int64_t count_up(std::atomic<int64_t>& counter) {
  return counter.fetch_add(1, std::memory_order_acq_rel) + 1;
}

// How a call is cut: by its shapes alone, never by the number of threads.
struct Cut {
  int64_t heads;           // B * N
  int64_t pack_blocks;     // blocks packed by one item
  int64_t packs;           // items that pack a head
  int64_t slots;           // heads in flight (the one thing threads may change)
  std::vector<std::atomic<int64_t>> packed, finished;  // items done, per head

  Cut(const Problem& p, int64_t slots)
      : heads(p.documents * p.heads),
        pack_blocks(std::max<int64_t>(1, 65536 / (p.block * p.width))),
        packs(ceil_div(p.blocks, pack_blocks)),
        slots(std::min(slots, heads)),
        packed(heads),
        finished(heads) {}

  // Packs one item's share of `head`, once its slot is free.
  void pack(const Problem& p, const Kernels& kernels, int64_t head, int64_t item,
            int64_t items_per_head, const Packed& to, bool backward) {
    if (head >= slots) wait_for(finished[head - slots], items_per_head);
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

  // Items of one head: shares of global rows, then bunches of ordinary rows (about 2 MFLOP).
  const int64_t shares = p.global_slots <= 4 ? ceil_div(p.blocks, 64) : 1;
  const int64_t row_flops = 4 * p.block * p.block * p.width * std::max<int64_t>(p.entries, 1);
  const int64_t bunch = std::clamp<int64_t>((int64_t{2} << 20) / row_flops, 1, p.rows);
  const int64_t bunches = ceil_div(p.rows, bunch), global_items = p.global_slots * shares;
  const int64_t row_items = global_items + bunches;

  Cut cut(p, 3 + pool.threads / row_items);
  Buffer<float> keys(cut.slots * key_floats), values(cut.slots * value_floats);
  const int64_t share_floats = p.block * (p.padded_width + 2);
  const int64_t stored = shares > 1 ? cut.slots * global_items * share_floats : 0;
  Buffer<float> sums(stored);
  std::vector<std::atomic<int64_t>> shares_done(cut.heads * p.global_slots);

  auto packed = [&](int64_t head) {
    const int64_t slot = head % cut.slots;
    return Packed{keys.data() + slot * key_floats, values.data() + slot * value_floats, nullptr,
                  nullptr};
  };
  auto accumulator = [&](int64_t head, int64_t item) {
    float* at = sums.data() + (head % cut.slots * global_items + item) * share_floats;
    float* top = at + p.block * p.padded_width;
    return Accumulator{at, top, top + p.block};
  };
  auto global_share = [&](int64_t head, int64_t item, float* scratch) {
    const int64_t document = head / p.heads, n = head % p.heads, slot = item / shares;
    const int64_t row = p.unique_globals[document * p.global_slots + slot];
    if (row < 0) return;
    const int64_t size = ceil_div(p.blocks, shares), first = item % shares * size;
    const int64_t last = std::min(first + size, p.blocks);
    if (shares == 1)
      return kernels.global_row(p, document, n, row, first, last, packed(head), nullptr, scratch);
    const Accumulator mine = accumulator(head, item);
    kernels.global_row(p, document, n, row, first, last, packed(head), &mine, scratch);
    if (count_up(shares_done[head * p.global_slots + slot]) < shares) return;
    std::vector<Accumulator> parts;
    for (int64_t i = 0; i < shares; ++i) parts.push_back(accumulator(head, slot * shares + i));
    kernels.merge(p, document, n, row, parts.data(), shares, scratch);
  };

  const int64_t per_step = cut.packs + row_items;
  run_items(pool, (cut.heads + 1) * per_step, kernels.scratch(p), [&](int64_t i, float* scratch) {
    const int64_t step = i / per_step, item = i % per_step - cut.packs;
    if (item < 0) {
      if (step < cut.heads)
        cut.pack(p, kernels, step, item + cut.packs, row_items, packed(step), false);
      return;
    }
    const int64_t head = step - 1;
    if (head < 0) return;
    wait_for(cut.packed[head], cut.packs);
    if (item < global_items) {
      global_share(head, item, scratch);
    } else {
      const int64_t first = (item - global_items) * bunch;
      kernels.rows(p, head / p.heads, head % p.heads, first, std::min(first + bunch, p.rows),
                   packed(head), scratch);
    }
    count_up(cut.finished[head]);
  });
}

void backward(const Problem& p, const Kernels& kernels, const Pool& pool) {
  const int64_t key_floats = p.blocks * p.width * p.padded_block;
  const int64_t value_floats = p.blocks * p.block * p.padded_width;
  const int64_t flags = p.blocks * key_tiles(p);

  // With few heads each is cut into parts that have sums of their own, added up in order.
  const int64_t parts =
      std::min(std::clamp<int64_t>(24 / (p.documents * p.heads), 1, 8), p.rows);
  const int64_t part_rows = ceil_div(p.rows, parts);

  Cut cut(p, 2 + ceil_div(pool.threads, parts));
  Buffer<float> across(cut.slots * 2 * key_floats), along(cut.slots * value_floats);
  Buffer<float> sums(cut.slots * parts * 2 * value_floats);
  Buffer<uint8_t> touched(cut.slots * parts * flags);
  std::vector<std::atomic<int64_t>> parts_done(cut.heads);

  auto packed = [&](int64_t head) {
    const int64_t slot = head % cut.slots;
    float* at = across.data() + slot * 2 * key_floats;
    return Packed{at, nullptr, along.data() + slot * value_floats, at + key_floats};
  };
  auto gradients = [&](int64_t head, int64_t part) {
    const int64_t index = head % cut.slots * parts + part;
    float* at = sums.data() + index * 2 * value_floats;
    return Gradients{at, at + value_floats, touched.data() + index * flags};
  };

  const int64_t per_step = cut.packs + parts;
  run_items(pool, (cut.heads + 1) * per_step, kernels.scratch(p), [&](int64_t i, float* scratch) {
    const int64_t step = i / per_step, part = i % per_step - cut.packs;
    if (part < 0) {
      if (step < cut.heads)
        cut.pack(p, kernels, step, part + cut.packs, parts, packed(step), true);
      return;
    }
    const int64_t head = step - 1;
    if (head < 0) return;
    wait_for(cut.packed[head], cut.packs);
    const int64_t document = head / p.heads, n = head % p.heads;
    const Gradients mine = gradients(head, part);
    std::fill(mine.touched, mine.touched + flags, uint8_t{0});
    kernels.backward_rows(p, document, n, std::min(part * part_rows, p.rows),
                          std::min((part + 1) * part_rows, p.rows), packed(head), mine, scratch);
    if (count_up(parts_done[head]) == parts) {
      std::vector<Gradients> all;
      for (int64_t j = 0; j < parts; ++j) all.push_back(gradients(head, j));
      kernels.finish_gradients(p, document, n, 0, p.blocks, all.data(), parts, scratch);
    }
    count_up(cut.finished[head]);
  });
}

}  // namespace bigbird
