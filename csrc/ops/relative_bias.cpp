#include "ops/relative_bias.h"

#include <algorithm>
#include <tuple>

#include "core/t5_buckets.h"
#include "ops/cache.h"
#include "posenc_ext.h"

namespace posenc_ext::ops {
namespace {

// Products of sizes stay below this: every index of a kernel then fits 64 bits with room to spare.
constexpr double kMaxProduct = 0x1p53;
// So do positions: a distance between two of them then fits as well.
constexpr int64_t kMaxPosition = int64_t{1} << 53;

// The product of `terms(size)`, or an error naming `argument` where it does not fit.
template <class Term>
c10::SymInt checked_product(const char* op, const char* argument, c10::SymIntArrayRef sizes, Term term) {
  double estimate = 1.0;
  c10::SymInt product = 1;
  for (const c10::SymInt& size : sizes) {
    if (const auto known = size.maybe_as_int()) estimate *= term(static_cast<double>(*known));
    POSENC_CHECK(estimate < kMaxProduct, op, argument, " must have a product below 2**53, got ", sizes);
    product = product * term(size);
  }
  return product;
}

}  // namespace

void check_lengths(const char* op, const c10::SymInt& q_len, const c10::SymInt& k_len,
                   const c10::SymInt& q_offset) {
  POSENC_CHECK(q_len >= 0, op, "q_len must be non-negative, got ", q_len);
  POSENC_CHECK(k_len >= 0, op, "k_len must be non-negative, got ", k_len);
  const c10::SymInt lengths[] = {q_len, k_len};
  checked_product(op, "[q_len, k_len]", lengths, [](const auto& size) { return size; });
  if (const auto offset = q_offset.maybe_as_int()) {
    POSENC_CHECK(-kMaxPosition < *offset && *offset < kMaxPosition, op,
                 "q_offset must be between -2**53 and 2**53, got ", *offset);
  }
}

BiasShape WindowBias::shape(const c10::SymInt& num_rows, c10::SymIntArrayRef window,
                            at::OptionalSymIntArrayRef query_size, int64_t prefix_tokens) {
  return shape_of(name, num_rows, window, query_size, prefix_tokens);
}

BiasShape WindowBias::shape_of(const char* op, const c10::SymInt& num_rows, c10::SymIntArrayRef window,
                               at::OptionalSymIntArrayRef query_size, int64_t prefix_tokens) {
  POSENC_CHECK(!window.empty() && window.size() <= Scheme::kAxes, op, "window must have 1 to 3 sizes, got ",
               window.size());
  for (const c10::SymInt& size : window) {
    POSENC_CHECK(size > 0, op, "window sizes must be positive, got ", window);
  }
  const c10::SymIntArrayRef queries = query_size.has_value() ? *query_size : window;
  POSENC_CHECK(queries.size() == window.size(), op, "query_size must have as many sizes as window ", window,
               ", got ", queries);
  if (query_size.has_value()) {
    for (size_t a = 0; a < window.size(); ++a) {
      POSENC_CHECK(queries[a] >= window[a], op, "query_size must be at least the window ", window, ", got ",
                   queries);
    }
  }
  POSENC_CHECK(prefix_tokens == 0 || prefix_tokens == 1, op, "prefix_tokens must be 0 or 1, got ",
               prefix_tokens);
  const c10::SymInt rows =
      checked_product(op, "window", window, [](const auto& size) { return size * 2 - 1; }) +
      3 * prefix_tokens;
  POSENC_CHECK(num_rows == rows, op, "table must have ", rows, " rows for window ", window,
               prefix_tokens == 1 ? " and prefix_tokens 1" : "", ", got ", num_rows);
  const auto itself = [](const auto& size) { return size; };
  return {rows, checked_product(op, "query_size", queries, itself) + prefix_tokens,
          checked_product(op, "window", window, itself) + prefix_tokens};
}

core::WindowScheme WindowBias::scheme(int64_t /*num_rows*/, c10::SymIntArrayRef window,
                                      at::OptionalSymIntArrayRef query_size, int64_t prefix_tokens) {
  const c10::SymIntArrayRef queries = query_size.has_value() ? *query_size : window;
  Scheme scheme{{1, 1, 1}, {1, 1, 1}, prefix_tokens};
  constexpr size_t kPlace[][Scheme::kAxes] = {
      {0}, {0, 2}, {0, 1, 2}};  // the remaining axes are in the middle
  for (size_t a = 0; a < window.size(); ++a) {
    const size_t axis = kPlace[window.size() - 1][a];
    scheme.window[axis] = window[a].expect_int();
    scheme.query[axis] = queries[a].expect_int();
  }
  return scheme;
}

BiasShape T5Bias::shape(const c10::SymInt& num_rows, c10::SymInt q_len, c10::SymInt k_len,
                        c10::SymInt q_offset, bool bidirectional, int64_t max_distance) {
  check_lengths(name, q_len, k_len, q_offset);
  check_rows(name, num_rows, bidirectional, max_distance);
  return {num_rows, std::move(q_len), std::move(k_len)};
}

void T5Bias::check_rows(const char* op, const c10::SymInt& num_rows, bool bidirectional,
                        int64_t max_distance) {
  const int64_t directions = bidirectional ? 2 : 1;
  const char* kind = bidirectional ? "bidirectional" : "causal";
  // One bucket for distance 0 and one for what is far, in each direction.
  POSENC_CHECK(num_rows >= 2 * directions, op, "table must have at least ", 2 * directions, " rows when ",
               kind, ", got ", num_rows);
  const int64_t most = 2 * (Scheme::kMaxThresholds + 1) * directions;
  POSENC_CHECK(num_rows <= most, op, "table must have at most ", most, " rows when ", kind, ", got ",
               num_rows);
  const c10::SymInt exact = num_rows / directions / 2;
  POSENC_CHECK(c10::SymInt(max_distance) > exact, op, "max_distance must be above ", exact, " with ",
               num_rows, " rows, ", kind, ", got ", max_distance);
  POSENC_CHECK(max_distance < kMaxPosition, op, "max_distance must be below 2**53, got ", max_distance);
}

core::T5Scheme T5Bias::scheme(int64_t num_rows, const c10::SymInt& q_len, const c10::SymInt& k_len,
                              const c10::SymInt& q_offset, bool bidirectional, int64_t max_distance) {
  const auto cached_scheme =
      cached<T5Bias>(std::tuple(num_rows, bidirectional, max_distance),
                     [](const auto& key) { return std::apply(core::make_t5_scheme, key); });
  Scheme scheme;  // not copied whole: most schemes use a few of the thresholds that there is room for
  scheme.num_rows = num_rows;
  scheme.query_count = q_len.expect_int();
  scheme.key_count = k_len.expect_int();
  scheme.q_offset = q_offset.expect_int();
  scheme.buckets = cached_scheme->buckets;
  scheme.exact = cached_scheme->exact;
  scheme.bidirectional = bidirectional;
  std::copy_n(cached_scheme->threshold, cached_scheme->thresholds(), scheme.threshold);
  return scheme;
}

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) { register_bias_ops<BiasOn<Meta>::Kernels>(m); }

}  // namespace posenc_ext::ops

namespace posenc_ext {

at::Tensor window_bias(const at::Tensor& table, at::IntArrayRef window, at::OptionalIntArrayRef query_size,
                       int64_t prefix_tokens) {
  at::OptionalSymIntArrayRef queries;
  if (query_size.has_value()) queries = c10::fromIntArrayRefSlow(*query_size);
  return ops::call_bias<ops::WindowBias, c10::SymIntArrayRef, at::OptionalSymIntArrayRef, int64_t>(
      table, c10::fromIntArrayRefSlow(window), queries, prefix_tokens);
}

at::Tensor t5_bias(const at::Tensor& table, int64_t q_len, int64_t k_len, int64_t q_offset,
                   bool bidirectional, int64_t max_distance) {
  return ops::call_bias<ops::T5Bias, c10::SymInt, c10::SymInt, c10::SymInt, bool, int64_t>(
      table, q_len, k_len, q_offset, bidirectional, max_distance);
}

}  // namespace posenc_ext
