// The XLA custom calls: they check the operands, build a `Problem` and use XLA's thread pool.
//
// Leading axes that jax.vmap added become examples ("broadcast_all": every operand has them).
#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "attention.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace bigbird {
namespace {

using Any = ffi::AnyBuffer;
using Dims = ffi::AnyBuffer::Dimensions;

ffi::Error invalid(const std::string& what) { return ffi::Error::InvalidArgument(what); }

int64_t product(Dims dims, size_t first, size_t last) {
  int64_t size = 1;
  for (size_t i = first; i < last; ++i) size = bounded_product({size, dims[i]});
  return size;
}

// Returns whether an array has the shape and the dtype of another.
template <typename Buffer, typename Other>
bool like(const Buffer& x, const Other& other) {
  const Dims dims = x.dimensions(), wanted = other.dimensions();
  return x.element_type() == other.element_type() && dims.size() == wanted.size() &&
         std::equal(dims.begin(), dims.end(), wanted.begin());
}

Tensor tensor(const Problem& p, int64_t tokens, void* data) {
  return {data, tokens * p.heads * p.width, p.heads * p.width, p.width};
}

// Checks everything that memory safety depends on, whoever built the call: a program may come from
// another process.
ffi::Error describe(Problem& p, Any q, Any k, Any v, Any mask, Any blocks, Any counts,
                    Any global_rows, int64_t block_size, bool causal, bool mask_queries,
                    double scale) {
  const Dims dims = q.dimensions();
  const size_t rank = dims.size();
  if (rank < 4) return invalid("q must have at least 4 axes");
  const size_t extra = rank - 4;
  for (const Any& x : {k, v})
    if (x.dimensions().size() != rank || x.element_type() != q.element_type())
      return invalid("q, k and v must have one rank and dtype");
  if (q.element_type() == ffi::F32)
    p.type = Type::kFloat32;
  else if (q.element_type() == ffi::BF16)
    p.type = Type::kBfloat16;
  else
    return invalid("q must be float32 or bfloat16");
  const int64_t copies = product(dims, 0, extra);
  p.group = dims[extra], p.examples = bounded_product({copies, p.group});
  p.queries = dims[extra + 1], p.heads = dims[extra + 2], p.width = dims[extra + 3];
  p.keys = k.dimensions()[extra + 1];
  for (const Any& x : {k, v})
    if (product(x.dimensions(), 0, extra) != copies || x.dimensions()[extra] != p.group ||
        x.dimensions()[extra + 1] != p.keys || x.dimensions()[extra + 2] != p.heads ||
        x.dimensions()[extra + 3] != p.width)
      return invalid("q, k and v must agree in all axes but their tokens");
  const Dims list = blocks.dimensions(), globals = global_rows.dimensions();
  if (list.size() != rank || globals.size() != extra + 2)
    return invalid("the pattern's axes do not fit q's");
  if (block_size < 1 || block_size > kMaxBlock)
    return invalid("the block size must lie in 1.." + std::to_string(kMaxBlock) + "; got " +
                   std::to_string(block_size) + ": build a pattern of smaller blocks");
  p.block = block_size;
  p.pattern_examples = list[extra], p.pattern_heads = list[extra + 1];
  p.rows = list[extra + 2], p.entries = list[extra + 3];
  p.blocks = p.keys / p.block + (p.keys % p.block != 0);
  p.global_examples = globals[extra], p.global_slots = globals[extra + 1];
  const bool fits = [&] {
    auto one_or = [](int64_t got, int64_t want) { return got == 1 || got == want; };
    return one_or(p.pattern_examples, p.group) &&
           one_or(p.pattern_heads, p.heads) && one_or(p.global_examples, p.group) &&
           product(list, 0, extra) == copies && product(globals, 0, extra) == copies &&
           like(counts, blocks);
  }();
  if (!fits) return invalid("the pattern does not fit q's shape");
  if (const std::string reason = check_sizes(p); !reason.empty()) return invalid(reason);
  for (const Any& x : {blocks, counts, global_rows})
    if (x.element_type() != ffi::S32) return invalid("the pattern must be int32");
  if (mask.element_type() != ffi::PRED) return invalid("mask must be boolean");
  const int64_t masked = product(mask.dimensions(), 0, mask.dimensions().size());
  if (masked != 0 && masked != bounded_product({p.examples, p.keys}))
    return invalid("mask must be [B, S], or empty for none");
  if ((causal || mask_queries) && p.queries != p.keys)
    return invalid("causal attention and masked queries need T = S");
  p.mask = masked ? static_cast<const uint8_t*>(mask.untyped_data()) : nullptr;
  p.lists = static_cast<const int32_t*>(blocks.untyped_data());
  p.counts = static_cast<const int32_t*>(counts.untyped_data());
  p.global_rows = static_cast<const int32_t*>(global_rows.untyped_data());
  p.causal = causal;
  p.mask_queries = mask_queries && masked;
  p.scale = static_cast<float>(scale);
  p.q = tensor(p, p.queries, q.untyped_data());
  p.k = tensor(p, p.keys, k.untyped_data());
  p.v = tensor(p, p.keys, v.untyped_data());
  return ffi::Error::Success();
}

// Checks the log-sum-exp, an operand of one call and a result of the other.
bool is_log_sum_exp(const Problem& p, Dims dims, ffi::DataType type) {
  return type == ffi::F32 &&
         product(dims, 0, dims.size()) == bounded_product({p.examples, p.heads, p.queries});
}

// Nothing is computed for a call without queries, whose gradients are 0.
bool is_empty(const Problem& p) { return !p.examples || !p.queries || !p.heads || !p.width; }

void clear(ffi::Result<Any> x) {
  if (x->size_bytes()) std::memset(x->untyped_data(), 0, x->size_bytes());
}

// Returns the error of a call, whose exceptions must not reach XLA.
template <typename Function>
ffi::Error catch_exceptions(Function&& call) {
  constexpr const char* remedy =
      ": use smaller batches or shorter inputs, or leave more memory to this process";
  try {
    return call();
  } catch (const OutOfMemory& error) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "the native CPU kernel of attention needs memory besides its arrays; "
                      "allocating " +
                          std::to_string(error.bytes) + " bytes failed" + remedy);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      std::string("the native CPU kernel of attention could not allocate memory") +
                          remedy);
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  }
}

template <typename Function>
ffi::Error run(Problem& p, std::string_view instructions, ffi::ThreadPool threads, Function&& go) {
  const Kernels* kernels = kernels_named(std::string(instructions).c_str());
  if (!kernels)
    return invalid("this processor has no kernels named '" + std::string(instructions) + "'");
  Pool pool;
  pool.threads = std::max<int64_t>(1, threads.num_threads());
  pool.schedule = [&](std::function<void()> task) { threads.Schedule(std::move(task)); };
  const Prepared prepared(p, kernels->vector);
  if (!prepared.valid())
    return invalid("the pattern's block ids must lie in 0.." + std::to_string(p.blocks - 1) +
                   " and its global rows in 0.." + std::to_string(p.rows - 1));
  go(p, *kernels, pool);
  return ffi::Error::Success();
}

ffi::Error attend(Any q, Any k, Any v, Any mask, Any blocks, Any counts, Any global_rows,
                  ffi::Result<Any> out, ffi::Result<Any> lse, int64_t block_size, bool causal,
                  bool mask_queries, double scale, std::string_view instructions,
                  ffi::ThreadPool threads) {
  return catch_exceptions([&]() -> ffi::Error {
    Problem p{};
    ffi::Error error = describe(p, q, k, v, mask, blocks, counts, global_rows, block_size, causal,
                                mask_queries, scale);
    if (error.failure()) return error;
    if (!like(*out, q) || !is_log_sum_exp(p, lse->dimensions(), lse->element_type()))
      return invalid("the outputs must be [B, T, N, H] like q, and [B, N, T] in float32");
    if (is_empty(p)) {
      clear(out), clear(lse);
      return ffi::Error::Success();
    }
    p.out = tensor(p, p.queries, out->untyped_data());
    p.lse = static_cast<float*>(lse->untyped_data());
    prefer_large_pages(out->untyped_data(), out->size_bytes());
    return run(p, instructions, threads, forward);
  });
}

ffi::Error differentiate(Any q, Any k, Any v, Any mask, Any blocks, Any counts, Any global_rows,
                         Any out, Any lse, Any d_out, ffi::Result<Any> d_q, ffi::Result<Any> d_k,
                         ffi::Result<Any> d_v, int64_t block_size, bool causal, bool mask_queries,
                         double scale, std::string_view instructions, ffi::ThreadPool threads) {
  return catch_exceptions([&]() -> ffi::Error {
    Problem p{};
    ffi::Error error = describe(p, q, k, v, mask, blocks, counts, global_rows, block_size, causal,
                                mask_queries, scale);
    if (error.failure()) return error;
    if (!like(out, q) || !like(d_out, q) || !like(*d_q, q) || !like(*d_k, k) || !like(*d_v, v) ||
        !is_log_sum_exp(p, lse.dimensions(), lse.element_type()))
      return invalid("outputs and gradients must be like q, k and v, and lse [B, N, T] in float32");
    if (is_empty(p)) {
      clear(d_q), clear(d_k), clear(d_v);
      return ffi::Error::Success();
    }
    p.out = tensor(p, p.queries, out.untyped_data());
    p.lse = static_cast<float*>(lse.untyped_data());
    p.d_out = tensor(p, p.queries, d_out.untyped_data());
    p.d_q = tensor(p, p.queries, d_q->untyped_data());
    p.d_k = tensor(p, p.keys, d_k->untyped_data());
    p.d_v = tensor(p, p.keys, d_v->untyped_data());
    for (ffi::Result<Any> x : {d_q, d_k, d_v})
      prefer_large_pages(x->untyped_data(), x->size_bytes());
    return run(p, instructions, threads, backward);
  });
}

}  // namespace
}  // namespace bigbird

#define BIGBIRD_EXPORT extern "C" __attribute__((visibility("default")))
BIGBIRD_EXPORT XLA_FFI_Error* bigbird_attention(XLA_FFI_CallFrame*);
BIGBIRD_EXPORT XLA_FFI_Error* bigbird_attention_gradient(XLA_FFI_CallFrame*);

XLA_FFI_DEFINE_HANDLER_SYMBOL(bigbird_attention, bigbird::attend,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("block_size")
                                  .Attr<bool>("causal")
                                  .Attr<bool>("mask_queries")
                                  .Attr<double>("scale")
                                  .Attr<std::string_view>("instructions")
                                  .Ctx<ffi::ThreadPool>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(bigbird_attention_gradient, bigbird::differentiate,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("block_size")
                                  .Attr<bool>("causal")
                                  .Attr<bool>("mask_queries")
                                  .Attr<double>("scale")
                                  .Attr<std::string_view>("instructions")
                                  .Ctx<ffi::ThreadPool>());

// Returns the instruction sets that run here, best first, separated by commas.
BIGBIRD_EXPORT const char* bigbird_instruction_sets() {
  static const std::string names = [] {
    std::string text;
    for (const bigbird::Kernels* kernels : bigbird::available_kernels())
      text += (text.empty() ? "" : ",") + std::string(kernels->name);
    return text;
  }();
  return names.c_str();
}
