// The kernels without Python or XLA, for AddressSanitizer, UBSan and ThreadSanitizer.
//
// Each case is compared with sums in double; buffers are exactly as large as they must be, so that
// a read or write past an end is caught. `build_and_run.sh` builds and runs it.
#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../attention.h"

using namespace bigbird;

namespace {

int failures = 0;

void expect(bool good, const std::string& what) {
  if (good) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

// A pool of its own kind: every task is a thread.
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
  int64_t documents, blocks, block, heads, width, entries, global_slots;
  bool causal, masked, per_head;
};

struct Data {
  Problem p{};
  std::vector<float> q, k, v, d_out, out, lse, d_q, d_k, d_v;
  std::vector<uint8_t> mask;
  std::vector<int32_t> lists, counts, globals;

  Data(const Case& c, std::mt19937& random) {
    const int64_t tokens = c.blocks * c.block, size = c.documents * tokens * c.heads * c.width;
    std::normal_distribution<float> normal;
    for (auto* x : {&q, &k, &v, &d_out}) {
      x->resize(size);
      for (float& value : *x) value = normal(random);
    }
    for (auto* x : {&out, &d_q, &d_k, &d_v}) x->assign(size, NAN);
    lse.assign(c.documents * c.heads * tokens, NAN);
    const int64_t listed = (c.per_head ? c.heads : 1) * c.blocks * c.entries;
    for (int64_t i = 0; i < listed; ++i) {
      counts.push_back(static_cast<int32_t>(random() % 3));
      lists.push_back(counts.back() ? static_cast<int32_t>(random() % c.blocks) : 1 << 30);
    }
    for (int64_t g = 0; g < c.global_slots; ++g)
      globals.push_back(static_cast<int32_t>(random() % c.blocks));
    p.documents = p.group = c.documents, p.tokens = tokens, p.heads = c.heads, p.width = c.width;
    p.block = c.block, p.blocks = c.blocks, p.entries = c.entries;
    p.global_slots = c.global_slots, p.pattern_documents = p.global_documents = 1;
    p.pattern_heads = c.per_head ? c.heads : 1;
    p.causal = c.causal, p.scale = 0.3f, p.type = Type::kFloat32;
    if (c.masked) {
      mask.resize(c.documents * tokens);
      for (uint8_t& m : mask) m = random() % 3 != 0;
      // What is masked is poison.
      for (int64_t i = 0; i < size; ++i)
        if (!mask[i / (c.heads * c.width)])
          q[i] = k[i] = v[i] = d_out[i] = std::numeric_limits<float>::quiet_NaN();
      p.mask = mask.data();
    }
    p.lists = lists.data(), p.counts = counts.data(), p.global_rows = globals.data();
    auto tensor = [&](std::vector<float>& x) {
      return Tensor{x.data(), tokens * c.heads * c.width, c.heads * c.width, c.width};
    };
    p.q = tensor(q), p.k = tensor(k), p.v = tensor(v), p.out = tensor(out);
    p.d_out = tensor(d_out), p.d_q = tensor(d_q), p.d_k = tensor(d_k), p.d_v = tensor(d_v);
    p.lse = lse.data();
  }

  bool reads(int64_t d, int64_t t) const { return !p.mask || p.mask[d * p.tokens + t]; }

  // How often token t of (d, n) reads token s.
  int64_t count(int64_t d, int64_t n, int64_t t, int64_t s) const {
    if (!reads(d, s) || !reads(d, t) || (p.causal && s > t)) return 0;
    const int64_t row = t / p.block;
    for (int32_t g : globals)
      if (g == row) return 1;
    int64_t total = 0;
    const int64_t at = p.list_offset(d, n, row);
    for (int64_t i = 0; i < p.entries; ++i)
      if (lists[at + i] == s / p.block) total += counts[at + i];
    return total;
  }

  // The largest difference from the definition, in double.
  double error() const {
    double worst = 0;
    std::vector<double> d_k_sum(q.size()), d_v_sum(q.size());
    auto compare = [&](float got, double want) {
      const double off = std::abs(got - want);
      worst = off <= worst ? worst : off;
      if (off != off) worst = INFINITY;
    };
    for (int64_t d = 0; d < p.documents; ++d) {
      for (int64_t n = 0; n < p.heads; ++n) {
        for (int64_t t = 0; t < p.tokens; ++t) {
          const int64_t here = p.q.offset(d, t, n);
          std::vector<double> weight(p.tokens), out_row(p.width), d_q_row(p.width);
          double total = 0, delta = 0;
          for (int64_t s = 0; s < p.tokens; ++s) {
            const int64_t c = count(d, n, t, s);
            if (!c) continue;
            double score = 0;
            for (int64_t h = 0; h < p.width; ++h)
              score += double{q[here + h]} * k[p.k.offset(d, s, n) + h];
            total += weight[s] = c * std::exp(score * p.scale);
          }
          for (int64_t s = 0; s < p.tokens; ++s) {
            if (!weight[s]) continue;
            weight[s] /= total;
            for (int64_t h = 0; h < p.width; ++h)
              out_row[h] += weight[s] * v[p.v.offset(d, s, n) + h];
          }
          for (int64_t h = 0; total && h < p.width; ++h) delta += out_row[h] * d_out[here + h];
          for (int64_t s = 0; s < p.tokens; ++s) {
            if (!weight[s]) continue;
            const int64_t there = p.k.offset(d, s, n);
            double d_weight = 0;
            for (int64_t h = 0; h < p.width; ++h) d_weight += double{d_out[here + h]} * v[there + h];
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
  const Prepared prepared(data.p, kernels.vector);
  expect(prepared.valid(), "valid pattern");
  Threads pool(threads);
  forward(data.p, kernels, pool.pool);
  backward(data.p, kernels, pool.pool);
}

void test_cases() {
  const Case cases[] = {
      {1, 1, 1, 1, 1, 1, 0, false, false, false}, {2, 3, 5, 2, 7, 3, 1, false, true, true},
      {1, 4, 16, 2, 16, 4, 2, true, true, false}, {1, 2, 64, 1, 64, 2, 1, false, false, false},
      {1, 2, 67, 1, 65, 2, 0, true, true, false}, {1, 2, 130, 1, 9, 2, 1, true, false, false},
      {1, 150, 2, 1, 3, 4, 2, false, true, false}, {2, 9, 4, 3, 8, 2, 6, false, true, false},
      {30, 2, 3, 1, 5, 2, 1, false, true, false},
  };
  for (const Kernels* kernels : available_kernels()) {
    int number = 0;
    for (const Case& c : cases) {
      const std::string name = std::string(kernels->name) + ", case " + std::to_string(number++);
      std::mt19937 random(number);
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
    Data data({1, 4, 4, 1, 4, 2, 1, false, false, false}, random);
    data.counts[3] = 1, data.lists[3] = bad;
    expect(!Prepared(data.p, 4).valid(), "a block id out of range is refused");
    data.counts[3] = 0, data.globals[0] = bad;
    expect(!Prepared(data.p, 4).valid(), "a global row out of range is refused");
  }
}

// Strides past 2^32 elements, in memory that is reserved and hardly touched.
void test_long_strides() {
  const int64_t stride = (int64_t{1} << 32) + 64;
  std::mt19937 random(0);
  Data data({1, 2, 1, 1, 4, 2, 0, false, false, false}, random);
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
  test_long_strides();
  std::printf(failures ? "%d failures\n" : "all native tests passed\n", failures);
  return failures != 0;
}
