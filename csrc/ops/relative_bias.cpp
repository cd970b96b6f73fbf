#include "ops/relative_bias.h"

#include "posenc_ext.h"

namespace posenc_ext::ops {
namespace {

// Products of sizes stay below this: every index of a kernel then fits 64 bits with room to spare.
constexpr double kMaxProduct = 0x1p53;

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

BiasShape WindowBias::shape(const c10::SymInt& num_rows, c10::SymIntArrayRef window,
                            at::OptionalSymIntArrayRef query_size, int64_t prefix_tokens) {
  POSENC_CHECK(!window.empty() && window.size() <= Scheme::kAxes, name, "window must have 1 to 3 sizes, got ",
               window.size());
  for (const c10::SymInt& size : window) {
    POSENC_CHECK(size > 0, name, "window sizes must be positive, got ", window);
  }
  const c10::SymIntArrayRef queries = query_size.has_value() ? *query_size : window;
  POSENC_CHECK(queries.size() == window.size(), name, "query_size must have as many sizes as window ", window,
               ", got ", queries);
  if (query_size.has_value()) {
    for (size_t a = 0; a < window.size(); ++a) {
      POSENC_CHECK(queries[a] >= window[a], name, "query_size must be at least the window ", window, ", got ",
                   queries);
    }
  }
  POSENC_CHECK(prefix_tokens == 0 || prefix_tokens == 1, name, "prefix_tokens must be 0 or 1, got ",
               prefix_tokens);
  const c10::SymInt rows =
      checked_product(name, "window", window, [](const auto& size) { return size * 2 - 1; }) +
      3 * prefix_tokens;
  POSENC_CHECK(num_rows == rows, name, "table must have ", rows, " rows for window ", window,
               prefix_tokens == 1 ? " and prefix_tokens 1" : "", ", got ", num_rows);
  const auto itself = [](const auto& size) { return size; };
  return {rows, checked_product(name, "query_size", queries, itself) + prefix_tokens,
          checked_product(name, "window", window, itself) + prefix_tokens};
}

core::WindowScheme WindowBias::scheme(c10::SymIntArrayRef window, at::OptionalSymIntArrayRef query_size,
                                      int64_t prefix_tokens) {
  const c10::SymIntArrayRef queries = query_size.has_value() ? *query_size : window;
  Scheme scheme{{1, 1, 1}, {1, 1, 1}, prefix_tokens};
  const size_t unused = Scheme::kAxes - window.size();
  for (size_t a = 0; a < window.size(); ++a) {
    scheme.window[unused + a] = window[a].expect_int();
    scheme.query[unused + a] = queries[a].expect_int();
  }
  return scheme;
}

}  // namespace posenc_ext::ops

namespace posenc_ext {

at::Tensor window_bias(const at::Tensor& table, at::IntArrayRef window, at::OptionalIntArrayRef query_size,
                       int64_t prefix_tokens) {
  at::OptionalSymIntArrayRef queries;
  if (query_size.has_value()) queries = c10::fromIntArrayRefSlow(*query_size);
  return ops::call_bias<ops::WindowBias, c10::SymIntArrayRef, at::OptionalSymIntArrayRef, int64_t>(
      table, c10::fromIntArrayRefSlow(window), queries, prefix_tokens);
}

}  // namespace posenc_ext
