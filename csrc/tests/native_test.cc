// Tests the kernels without Python or XLA, for AddressSanitizer, UBSan and ThreadSanitizer.
//
// Each case is compared with sums in double precision. Buffers are exactly as large as needed, so
// that a read or write past an end is caught. `build_and_run.sh` builds and runs it.
#include <sys/mman.h>

#include <atomic>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../attention.h"

using namespace bigbird;

namespace {

// The allocation that fails, counted from now: 0 is the next one. A negative number is none.
std::atomic<int64_t> allocations_left{-1};

bool allocation_fails() {
  return allocations_left.load() >= 0 && allocations_left.fetch_sub(1) == 0;
}

}  // namespace

// The linker calls this one instead of std::aligned_alloc; see build_and_run.sh.
extern "C" void* __real_aligned_alloc(size_t alignment, size_t bytes);
extern "C" void* __wrap_aligned_alloc(size_t alignment, size_t bytes) {
  return allocation_fails() ? nullptr : __real_aligned_alloc(alignment, bytes);
}

void* operator new(size_t bytes) {
  void* data = allocation_fails() ? nullptr : std::malloc(bytes ? bytes : 1);
  if (!data) throw std::bad_alloc();
  return data;
}
void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }

namespace {

int failures = 0;

void expect(bool good, const std::string& what) {
  if (good) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

// A pool that runs every task in a thread of its own.
struct Threads {
  std::vector<std::thread> running;
  Pool pool;
  explicit Threads(int64_t count) {
    pool.threads = count;
    pool.schedule = [this](std::function<void()> task) { running.emplace_back(std::move(task)); };
  }
  ~Threads() {
    for (std::thread& thread : running) thread.join();
  }
};

struct Case {
  int64_t examples, queries, keys, block, heads, width, entries, global_slots;
  bool causal, masked, per_head;
};

struct Data {
  Problem p{};
  std::vector<float> q, k, v, d_out, out, lse, d_q, d_k, d_v;
  std::vector<uint8_t> mask;
  std::vector<int32_t> lists, counts, globals;

  Data(const Case& c, std::mt19937& random) {
    const int64_t rows = (c.queries + c.block - 1) / c.block;
    const int64_t blocks = (c.keys + c.block - 1) / c.block;
    const int64_t token = c.heads * c.width;
    std::normal_distribution<float> normal;
    auto fill = [&](std::vector<float>& x, int64_t tokens) {
      x.resize(c.examples * tokens * token);
      for (float& value : x) value = normal(random);
    };
    fill(q, c.queries), fill(d_out, c.queries), fill(k, c.keys), fill(v, c.keys);
    out.assign(q.size(), NAN), d_q.assign(q.size(), NAN);
    d_k.assign(k.size(), NAN), d_v.assign(k.size(), NAN);
    lse.assign(c.examples * c.heads * c.queries, NAN);
    const int64_t listed = (c.per_head ? c.heads : 1) * rows * c.entries;
    for (int64_t i = 0; i < listed; ++i) {
      counts.push_back(static_cast<int32_t>(random() % 3));
      if (!blocks) counts.back() = 0;
      lists.push_back(counts.back() ? static_cast<int32_t>(random() % blocks) : 1 << 30);
    }
    for (int64_t g = 0; g < c.global_slots; ++g)
      globals.push_back(static_cast<int32_t>(random() % rows));
    p.examples = p.group = c.examples, p.queries = c.queries, p.keys = c.keys;
    p.heads = c.heads, p.width = c.width, p.block = c.block, p.rows = rows, p.blocks = blocks;
    p.entries = c.entries;
    p.global_slots = c.global_slots, p.pattern_examples = p.global_examples = 1;
    p.pattern_heads = c.per_head ? c.heads : 1;
    p.causal = c.causal, p.scale = 0.3f, p.type = Type::kFloat32;
    if (c.masked) {
      mask.resize(c.examples * c.keys);
      for (uint8_t& m : mask) m = random() % 3 != 0;
      // Masked values are NaN.
      const float poison = std::numeric_limits<float>::quiet_NaN();
      p.mask_queries = c.queries == c.keys;
      for (size_t i = 0; i < k.size(); ++i) {
        if (mask[i / token]) continue;
        k[i] = v[i] = poison;
        if (p.mask_queries) q[i] = d_out[i] = poison;
      }
      p.mask = mask.data();
    }
    p.lists = lists.data(), p.counts = counts.data(), p.global_rows = globals.data();
    auto tensor = [&](std::vector<float>& x) {
      const int64_t example = static_cast<int64_t>(x.size()) / c.examples;
      return Tensor{x.data(), example, token, c.width};
    };
    p.q = tensor(q), p.k = tensor(k), p.v = tensor(v), p.out = tensor(out);
    p.d_out = tensor(d_out), p.d_q = tensor(d_q), p.d_k = tensor(d_k), p.d_v = tensor(d_v);
    p.lse = lse.data();
  }

  bool reads(int64_t d, int64_t s) const { return !p.mask || p.mask[d * p.keys + s]; }
  bool attends(int64_t d, int64_t t) const { return !p.mask_queries || reads(d, t); }

  // Returns how often token t of (d, n) reads token s.
  int64_t count(int64_t d, int64_t n, int64_t t, int64_t s) const {
    if (!reads(d, s) || !attends(d, t) || (p.causal && s > t)) return 0;
    const int64_t row = t / p.block;
    for (int32_t g : globals)
      if (g == row) return 1;
    int64_t total = 0;
    const int64_t at = p.list_offset(d, n, row);
    for (int64_t i = 0; i < p.entries; ++i)
      if (lists[at + i] == s / p.block) total += counts[at + i];
    return total;
  }

  // Returns the largest difference from the definition, in double precision.
  double error() const {
    double worst = 0;
    std::vector<double> d_k_sum(k.size()), d_v_sum(k.size());
    auto compare = [&](float got, double want) {
      const double off = std::abs(got - want);
      worst = off <= worst ? worst : off;
      if (off != off) worst = INFINITY;
    };
    for (int64_t d = 0; d < p.examples; ++d) {
      for (int64_t n = 0; n < p.heads; ++n) {
        for (int64_t t = 0; t < p.queries; ++t) {
          const int64_t here = p.q.offset(d, t, n);
          std::vector<double> weight(p.keys), out_row(p.width), d_q_row(p.width);
          double total = 0, delta = 0;
          for (int64_t s = 0; s < p.keys; ++s) {
            const int64_t c = count(d, n, t, s);
            if (!c) continue;
            double score = 0;
            for (int64_t h = 0; h < p.width; ++h)
              score += double{q[here + h]} * k[p.k.offset(d, s, n) + h];
            total += weight[s] = c * std::exp(score * p.scale);
          }
          for (int64_t s = 0; s < p.keys; ++s) {
            if (!weight[s]) continue;
            weight[s] /= total;
            for (int64_t h = 0; h < p.width; ++h)
              out_row[h] += weight[s] * v[p.v.offset(d, s, n) + h];
          }
          for (int64_t h = 0; total && h < p.width; ++h) delta += out_row[h] * d_out[here + h];
          for (int64_t s = 0; s < p.keys; ++s) {
            if (!weight[s]) continue;
            const int64_t there = p.k.offset(d, s, n);
            double d_weight = 0;
            for (int64_t h = 0; h < p.width; ++h)
              d_weight += double{d_out[here + h]} * v[there + h];
            const double d_score = weight[s] * (d_weight - delta) * p.scale;
            for (int64_t h = 0; h < p.width; ++h) {
              d_q_row[h] += d_score * k[there + h];
              d_k_sum[there + h] += d_score * q[here + h];
              d_v_sum[there + h] += weight[s] * d_out[here + h];
            }
          }
          for (int64_t h = 0; h < p.width; ++h) compare(out[here + h], out_row[h]);
          for (int64_t h = 0; h < p.width; ++h) compare(d_q[here + h], d_q_row[h]);
        }
      }
    }
    for (size_t i = 0; i < d_k.size(); ++i) {
      compare(d_k[i], d_k_sum[i]);
      compare(d_v[i], d_v_sum[i]);
    }
    return worst;
  }
};

void run_all(Data& data, const Kernels& kernels, int64_t threads) {
  expect(check_sizes(data.p).empty(), check_sizes(data.p));
  const Prepared prepared(data.p, kernels.vector);
  expect(prepared.valid(), "valid pattern");
  Threads pool(threads);
  forward(data.p, kernels, pool.pool);
  backward(data.p, kernels, pool.pool);
}

void test_cases() {
  const Case cases[] = {
      {1, 1, 1, 1, 1, 1, 1, 0, false, false, false},
      {2, 15, 15, 5, 2, 7, 3, 1, false, true, true},
      {1, 64, 64, 16, 2, 16, 4, 2, true, true, false},
      {1, 128, 128, 64, 1, 64, 2, 1, false, false, false},
      {1, 134, 134, 67, 1, 65, 2, 0, true, true, false},
      {1, 260, 260, 130, 1, 9, 2, 1, true, false, false},
      {1, 300, 300, 2, 1, 3, 4, 2, false, true, false},
      {2, 36, 36, 4, 3, 8, 2, 6, false, true, false},
      {30, 6, 6, 3, 1, 5, 2, 1, false, true, false},
      // The last row and block are part full.
      {2, 13, 13, 5, 2, 7, 3, 1, false, true, true},
      {1, 131, 131, 64, 1, 8, 3, 1, true, false, false},
      {1, 201, 201, 130, 2, 9, 2, 2, false, true, false},
      // The keys are those of another sequence.
      {2, 7, 150, 64, 2, 16, 2, 1, false, true, false},
      {2, 150, 7, 64, 1, 5, 1, 3, false, false, false},
      {1, 1, 700, 64, 2, 8, 1, 1, false, true, false},
      {1, 3, 9000, 64, 1, 4, 1, 1, false, true, false},
      {2, 8, 67, 64, 3, 17, 1, 2, false, true, true},
      {2, 8, 8, 3, 1, 16, 3, 0, true, true, false},
      // No keys, and blocks that are much longer than the sequence.
      {2, 9, 0, 4, 2, 5, 2, 1, false, false, false},
      {2, 9, 0, 4, 2, 5, 2, 6, false, false, false},
      {1, 5, 3, 5000, 1, 3, 1, 1, false, true, false},
      {1, 5, 5, 5000, 1, 3, 2, 0, true, false, false},
  };
  for (const Kernels* kernels : available_kernels()) {
    int index = 0;
    for (const Case& c : cases) {
      const std::string name = std::string(kernels->name) + ", case " + std::to_string(index++);
      std::mt19937 random(index);
      Data data(c, random);
      run_all(data, *kernels, 1);
      const double error = data.error();
      expect(error < 1e-5, name + ": off by " + std::to_string(error));
      const Data before = data;
      for (int64_t threads : {2, 5}) {
        run_all(data, *kernels, threads);
        expect(data.out == before.out && data.d_q == before.d_q && data.d_k == before.d_k &&
                   data.d_v == before.d_v,
               name + ": the bits depend on the number of threads");
      }
    }
  }
}

void test_bad_ids() {
  std::mt19937 random(0);
  for (int32_t bad : {-1, 4, 1 << 30}) {
    Data data({1, 16, 16, 4, 1, 4, 2, 1, false, false, false}, random);
    data.counts[3] = 1, data.lists[3] = bad;
    expect(!Prepared(data.p, 4).valid(), "a block id out of range is refused");
    data.counts[3] = 0, data.globals[0] = bad;
    expect(!Prepared(data.p, 4).valid(), "a global row out of range is refused");
  }
}

// Every size, alone and in pairs, is one that would divide by zero, overflow or be negative. What is
// refused says so; nothing else may overflow, which UBSan sees.
void test_hostile_sizes() {
  const int64_t hostile[] = {INT64_MIN,      INT64_MIN + 1,          -(int64_t{1} << 32),
                             -1,             0,                      1,
                             kMaxBlock,      kMaxBlock + 1,          int64_t{1} << 28,
                             INT32_MAX - 1,  INT32_MAX,              int64_t{1} << 31,
                             (1ll << 32) - 1, int64_t{1} << 32,      (1ll << 32) + 1,
                             1ll << 61,      INT64_MAX - 63,         INT64_MAX};
  std::mt19937 random(0);
  const Data data({1, 16, 16, 4, 1, 4, 2, 1, false, false, false}, random);
  int64_t Problem::*const fields[] = {&Problem::examples, &Problem::queries, &Problem::keys,
                                      &Problem::heads,    &Problem::width,   &Problem::block,
                                      &Problem::rows,     &Problem::blocks,  &Problem::entries,
                                      &Problem::global_slots};
  for (int64_t Problem::*one : fields) {
    for (int64_t Problem::*other : fields) {
      for (const int64_t first : hostile) {
        for (const int64_t second : hostile) {
          Problem p = data.p;
          p.*one = first, p.*other = second;
          for (const bool fitting : {false, true}) {
            if (fitting && p.block > 0) {  // the rows and blocks that belong to the lengths
              p.rows = p.queries / p.block + (p.queries % p.block != 0);
              p.blocks = p.keys / p.block + (p.keys % p.block != 0);
            }
            const std::string reason = check_sizes(p);
            if (p.block < 1 || p.block > kMaxBlock || p.*other < 0)
              expect(!reason.empty(), "a size out of range is refused");
            if (!reason.empty()) continue;
            // What the calls compute from sizes that are accepted.
            const int64_t long_block = p.block + 16, wide = p.width + 16;
            volatile int64_t bytes = p.examples * p.heads * p.queries * p.width * 4;
            bytes = p.examples * p.heads * p.keys * p.width * 4;
            bytes = (p.blocks + 1) * long_block * wide * 16;
            bytes = p.examples * p.heads * (p.rows + p.global_slots) * 2;
            bytes = p.list_offset(p.examples ? p.examples - 1 : 0, 0, p.rows ? p.rows - 1 : 0);
            (void)bytes;
          }
        }
      }
    }
  }
  for (const int64_t block : {int64_t{1} << 28, int64_t{1} << 31, int64_t{1} << 62}) {
    Problem p = data.p;
    p.block = block, p.rows = p.blocks = 1;
    expect(check_sizes(p).find("the block size must lie in 1..1048576") == 0, check_sizes(p));
  }
  for (const int64_t size : {INT64_MIN, int64_t{-1}, INT64_MAX, INT64_MAX / 2, INT64_MAX / 4}) {
    bool refused = false;
    try {
      Buffer<float> buffer(size);
    } catch (const std::bad_alloc&) {
      refused = true;
    }
    expect(refused, "a buffer that no memory holds");
  }
}

// Each allocation of a call fails once, in whichever thread makes it. The call then throws, or its
// result is right because other threads did the work, and the next call works.
void test_failed_allocations() {
  const Case cases[] = {
      {2, 300, 300, 2, 2, 3, 4, 2, false, true, false},  // global rows in parts
      {1, 48, 48, 4, 3, 8, 2, 6, false, true, true},
  };
  for (const Case& c : cases) {
    for (int64_t threads : {1, 4}) {
      for (const bool is_forward : {true, false}) {
        std::mt19937 random(0);
        Data data(c, random);
        const Kernels& kernels = *available_kernels()[0];
        run_all(data, kernels, 1);
        const Data before = data;
        auto same = [&] {
          return data.out == before.out && data.d_q == before.d_q && data.d_k == before.d_k &&
                 data.d_v == before.d_v;
        };
        int64_t thrown = 0;
        for (int64_t i = 0;; ++i) {
          bool complete = true;
          {
            Threads pool(threads);
            pool.running.reserve(threads);
            allocations_left = i;
            try {
              const Prepared prepared(data.p, kernels.vector);
              (is_forward ? forward : backward)(data.p, kernels, pool.pool);
            } catch (const OutOfMemory& error) {
              expect(error.bytes > 0, "the error holds the number of bytes");
              complete = false, ++thrown;
            } catch (const std::bad_alloc&) {
              complete = false, ++thrown;
            }
            // The threads that are still starting allocate, too.
          }
          const bool all_succeeded = allocations_left >= 0;
          allocations_left = -1;
          expect(!complete || same(), "a call without memory is right or throws");
          run_all(data, kernels, threads);
          expect(same(), "the call after a failed one");
          if (all_succeeded || i > 10000) break;
        }
        expect(thrown > 5, "allocations fail");
      }
    }
  }
}

// An item that throws in a thread of the pool, while all the others wait for it.
void test_items_that_throw() {
  for (int64_t threads : {1, 2, 5}) {
    for (int64_t bad : {0, 3, 99}) {
      std::atomic<int64_t> inside{0};
      std::string message;
      Threads pool(threads);
      try {
        run_items(pool.pool, 100, 16, [&](int64_t i, float*, const std::atomic<bool>& failed) {
          ++inside;
          if (i == bad) {
            --inside;
            throw std::runtime_error("item");
          }
          while (i > bad && !failed) std::this_thread::yield();
          --inside;
        });
      } catch (const std::runtime_error& error) {
        message = error.what();
      }
      expect(message == "item", "the caller gets what an item throws");
      expect(inside == 0, "no thread is inside an item when the caller goes on");
    }
  }
}

// Tests strides past 2^32 elements, in memory that is reserved and hardly touched.
void test_long_strides() {
  const int64_t stride = (int64_t{1} << 32) + 64;
  std::mt19937 random(0);
  Data data({1, 2, 2, 1, 1, 4, 2, 0, false, false, false}, random);
  data.counts.assign(4, 1), data.lists = {0, 1, 1, 0};
  run_all(data, *available_kernels()[0], 1);
  std::vector<float*> reserved;
  const size_t bytes = (stride + 4) * sizeof(float);
  auto spread = [&](Tensor& x, const std::vector<float>& from) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    float* at = static_cast<float*>(memory);
    reserved.push_back(at);
    for (int64_t h = 0; h < 4; ++h) at[h] = from[h], at[stride + h] = from[4 + h];
    x = {at, 2 * stride, stride, 4};
    return true;
  };
  Problem& p = data.p;
  const bool room = spread(p.q, data.q) && spread(p.k, data.k) && spread(p.v, data.v) &&
                    spread(p.d_out, data.d_out) && spread(p.out, data.q) &&
                    spread(p.d_q, data.q) && spread(p.d_k, data.q) && spread(p.d_v, data.q);
  if (room) {
    run_all(data, *available_kernels()[0], 1);
    auto same = [&](const Tensor& x, const std::vector<float>& want) {
      const float* at = static_cast<const float*>(x.data);
      for (int64_t h = 0; h < 4; ++h)
        if (at[h] != want[h] || at[stride + h] != want[4 + h]) return false;
      return true;
    };
    expect(same(p.out, data.out) && same(p.d_q, data.d_q) && same(p.d_k, data.d_k) &&
               same(p.d_v, data.d_v),
           "64-bit offsets");
  } else {
    std::printf("skipped: no address space for 64-bit offsets\n");
  }
  for (float* memory : reserved) munmap(memory, bytes);
}

}  // namespace

int main() {
  test_cases();
  test_bad_ids();
  test_hostile_sizes();
  test_failed_allocations();
  test_items_that_throw();
  test_long_strides();
  std::printf(failures ? "%d failures\n" : "all native tests passed\n", failures);
  return failures != 0;
}
