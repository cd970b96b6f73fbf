#include "ops/bias_softmax.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include "ops/alibi_bias.h"
#include "ops/bias_args.h"
#include "ops/dropout.h"
#include "ops/gather_bias.h"
#include "posenc_ext.h"

namespace posenc_ext::ops {
namespace {

// The tensor, or null where there is none.
const at::Tensor* given(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() && tensor->defined() ? &*tensor : nullptr;
}

void check_device(const char* op, const char* name, const at::Tensor& tensor, at::Device device) {
  POSENC_CHECK(tensor.device() == device, op, name, " must be on the device of scores (", device, "), got ",
               tensor.device());
}

void check_mask(const char* op, const at::Tensor& scores, const at::Tensor& mask) {
  POSENC_CHECK(mask.scalar_type() == at::kBool || is_supported(mask.scalar_type()), op,
               "mask must be bool, float64, float32, float16 or bfloat16, got ", mask.scalar_type());
  bool fits = mask.dim() >= 1 && mask.dim() <= scores.dim() && mask.sym_size(-1) == scores.sym_size(-1);
  for (int64_t d = 2; fits && d <= mask.dim(); ++d) {
    fits = mask.sym_size(-d) == 1 || mask.sym_size(-d) == scores.sym_size(-d);
  }
  POSENC_CHECK(fits, op, "mask must have the keys of scores and broadcast to their shape ",
               scores.sym_sizes(), ", got ", mask.sym_sizes());
}

void check_regions(const char* op, const at::Tensor& scores, const at::Tensor& regions) {
  POSENC_CHECK(regions.scalar_type() == at::kInt || regions.scalar_type() == at::kLong, op,
               "regions must be int32 or int64, got ", regions.scalar_type());
  POSENC_CHECK(regions.dim() == 2 && regions.sym_size(1) == scores.sym_size(-1) &&
                   scores.sym_size(-2) == scores.sym_size(-1),
               op, "regions must have shape [windows, N] for scores [..., heads, N, N] of shape ",
               scores.sym_sizes(), ", got ", regions.sym_sizes());
  c10::SymInt samples = 1;
  for (int64_t d = 0; d < scores.dim() - 3; ++d) samples = samples * scores.sym_size(d);
  const c10::SymInt windows = regions.sym_size(0);
  POSENC_CHECK(windows > 0 && samples % windows == 0, op,
               "regions must have a number of windows that divides the number of samples ", samples, ", got ",
               windows);
}

// The sizes of a table that has a column for each head.
void check_columns(const char* op, const at::Tensor& table, const BiasSizes& sizes) {
  POSENC_CHECK(table.dim() == 2, op, "table must have 2 dimensions [rows, heads], got ", table.dim());
  POSENC_CHECK(table.sym_size(1) == sizes.heads, op, "table must have the heads of scores (", sizes.heads,
               "), got ", table.sym_size(1));
}

c10::SymInt diagonals_of(const BiasSizes& sizes) { return (sizes.queries + sizes.keys - 1).max(0); }

}  // namespace

BiasSizes bias_sizes(const at::Tensor& scores) {
  return {scores.sym_size(-3), scores.sym_size(-2), scores.sym_size(-1)};
}

void check_softmax(const char* op, const at::Tensor& scores, const char* table_name, const at::Tensor& table,
                   const SoftmaxOptions& options, at::Device device) {
  check_dtype(op, "scores", scores.scalar_type());
  POSENC_CHECK(scores.dim() >= 3, op, "scores must have at least 3 dimensions [..., heads, Q, K], got ",
               scores.dim());
  check_dtype(op, table_name, table.scalar_type());
  check_device(op, table_name, table, device);
  check_finite(op, "scale", options.scale);
  const at::Tensor *mask = given(options.mask), *regions = given(options.regions);
  POSENC_CHECK(mask == nullptr || regions == nullptr, op, "mask and regions exclude each other, got both");
  if (mask != nullptr) {
    check_device(op, "mask", *mask, device);
    check_mask(op, scores, *mask);
  }
  if (regions != nullptr) {
    check_device(op, "regions", *regions, device);
    check_regions(op, scores, *regions);
  }
  check_lengths(op, scores.sym_size(-2), scores.sym_size(-1), options.q_offset);
}

Result grad_of_table(const char* op, const at::Tensor& grad, const at::Tensor& result,
                     c10::SymIntArrayRef table_sizes, double scale) {
  check_dtype(op, "grad", grad.scalar_type());
  POSENC_CHECK(grad.dim() >= 3, op, "grad must have at least 3 dimensions [..., heads, Q, K], got ",
               grad.dim());
  POSENC_CHECK(result.scalar_type() == grad.scalar_type() && result.sym_sizes() == grad.sym_sizes() &&
                   result.device() == grad.device(),
               op, "result must have the dtype, shape and device of grad (", grad.scalar_type(), " ",
               grad.sym_sizes(), " on ", grad.device(), "), got ", result.scalar_type(), " ",
               result.sym_sizes(), " on ", result.device());
  check_finite(op, "scale", scale);
  return {op, c10::SymDimVector(table_sizes), grad.options().dtype(sum_type(grad.scalar_type()))};
}

void WindowSoftmax::check(const char* op, const at::Tensor& table, const BiasSizes& sizes,
                          c10::SymIntArrayRef window, at::OptionalSymIntArrayRef query_size,
                          int64_t prefix_tokens) {
  check_columns(op, table, sizes);
  const BiasShape shape = WindowBias::shape_of(op, table.sym_size(0), window, query_size, prefix_tokens);
  POSENC_CHECK(sizes.queries == shape.queries && sizes.keys == shape.keys, op,
               "scores must have the queries and keys of the window (", shape.queries, ", ", shape.keys,
               "), got (", sizes.queries, ", ", sizes.keys, ")");
}

core::WindowScheme WindowSoftmax::scheme(at::IntArrayRef table_sizes, at::IntArrayRef /*sizes*/,
                                         c10::SymIntArrayRef window, at::OptionalSymIntArrayRef query_size,
                                         int64_t prefix_tokens) {
  return WindowBias::scheme(table_sizes[0], window, query_size, prefix_tokens);
}

at::Tensor WindowSoftmax::expand(const at::Tensor& table, const BiasSizes& /*sizes*/,
                                 c10::SymIntArrayRef window, at::OptionalSymIntArrayRef query_size,
                                 int64_t prefix_tokens) {
  return call_bias<WindowBias, c10::SymIntArrayRef, at::OptionalSymIntArrayRef, int64_t>(
      table, window, query_size, prefix_tokens);
}

at::Tensor WindowSoftmax::collect(const at::Tensor& grad, c10::SymIntArrayRef table_sizes,
                                  c10::SymIntArrayRef window, at::OptionalSymIntArrayRef query_size,
                                  int64_t prefix_tokens) {
  return call_bias_backward<WindowBias, c10::SymIntArrayRef, at::OptionalSymIntArrayRef, int64_t>(
      grad, table_sizes[0], window, query_size, prefix_tokens);
}

void DiagonalSoftmax::check(const char* op, const at::Tensor& diagonals, const BiasSizes& sizes) {
  const c10::SymInt count = diagonals_of(sizes);
  POSENC_CHECK(diagonals.dim() == 2 && diagonals.sym_size(0) == sizes.heads && diagonals.sym_size(1) == count,
               op, "diagonals must have shape [heads, Q + K - 1], here [", sizes.heads, ", ", count,
               "], got ", diagonals.sym_sizes());
}

args::DiagonalScheme DiagonalSoftmax::scheme(at::IntArrayRef /*table_sizes*/, at::IntArrayRef sizes) {
  return {sizes[1], sizes[2]};
}

namespace {

// The diagonal of each pair.
at::Tensor diagonal_index(const c10::SymInt& queries, const c10::SymInt& keys, at::Device device) {
  const at::TensorOptions options = at::TensorOptions().dtype(at::kLong).device(device);
  const at::Tensor last = at::arange(at::Scalar(queries - 1), at::Scalar(-1), at::Scalar(-1), options);
  return last.unsqueeze(1) + at::arange(at::Scalar(keys), options);
}

}  // namespace

at::Tensor DiagonalSoftmax::expand(const at::Tensor& diagonals, const BiasSizes& sizes) {
  return call_gather_bias(diagonals.t(), diagonal_index(sizes.queries, sizes.keys, diagonals.device()));
}

at::Tensor DiagonalSoftmax::collect(const at::Tensor& grad, c10::SymIntArrayRef table_sizes) {
  const at::Tensor index = diagonal_index(grad.sym_size(1), grad.sym_size(2), grad.device());
  return call_gather_bias_backward(grad, index, table_sizes[1]).t();
}

void GatherSoftmax::check(const char* op, const at::Tensor& table, const BiasSizes& sizes,
                          const at::Tensor& index) {
  check_columns(op, table, sizes);
  POSENC_CHECK(index.scalar_type() == at::kInt || index.scalar_type() == at::kLong, op,
               "index must be int32 or int64, got ", index.scalar_type());
  POSENC_CHECK(index.dim() == 2 && index.sym_size(0) == sizes.queries && index.sym_size(1) == sizes.keys, op,
               "index must have the shape [Q, K] of scores, here [", sizes.queries, ", ", sizes.keys,
               "], got ", index.sym_sizes());
}

args::IndexScheme GatherSoftmax::scheme(at::IntArrayRef table_sizes, at::IntArrayRef /*sizes*/,
                                        const at::Tensor& index) {
  return {index_args(index), table_sizes[0]};
}

at::Tensor GatherSoftmax::expand(const at::Tensor& table, const BiasSizes& /*sizes*/,
                                 const at::Tensor& index) {
  return call_gather_bias(table, index);
}

at::Tensor GatherSoftmax::collect(const at::Tensor& grad, c10::SymIntArrayRef table_sizes,
                                  const at::Tensor& index) {
  return call_gather_bias_backward(grad, index, table_sizes[0]);
}

void PairSoftmax::check(const char* op, const at::Tensor& bias, const BiasSizes& sizes) {
  POSENC_CHECK(bias.dim() == 3 && bias.sym_size(0) == sizes.heads && bias.sym_size(1) == sizes.queries &&
                   bias.sym_size(2) == sizes.keys,
               op, "bias must have the shape [heads, Q, K] of scores, here [", sizes.heads, ", ",
               sizes.queries, ", ", sizes.keys, "], got ", bias.sym_sizes());
}

args::PairScheme PairSoftmax::scheme(at::IntArrayRef /*table_sizes*/, at::IntArrayRef sizes) {
  return {sizes[1], sizes[2]};
}

at::Tensor PairSoftmax::expand(const at::Tensor& bias, const BiasSizes& /*sizes*/) { return bias; }

at::Tensor PairSoftmax::collect(const at::Tensor& grad, c10::SymIntArrayRef table_sizes) {
  return is_no_bias(table_sizes) ? at::zeros_symint(table_sizes, grad.options()) : grad;
}

namespace {

args::Mask mask_args(at::IntArrayRef sizes, at::ScalarType type, const SoftmaxOptions& options,
                     std::vector<at::Tensor>& storage) {
  using Kind = args::Mask::Kind;
  args::Mask a{Kind::none, nullptr, {}, 0, 0, 1, options.causal, 0};
  a.q_offset = options.q_offset.expect_int();
  if (const at::Tensor* regions = given(options.regions)) {
    storage.push_back(regions->to(at::kInt).contiguous());
    a.kind = Kind::regions;
    a.data = storage.back().const_data_ptr();
    a.windows = regions->size(0);
  } else if (const at::Tensor* mask = given(options.mask)) {
    const bool is_bool = mask->scalar_type() == at::kBool;
    const at::Tensor typed = is_bool ? *mask : mask->to(type);
    const at::Tensor rows = (typed.stride(-1) == 1 ? typed : typed.contiguous()).expand(sizes);
    storage.push_back(collapsible(rows, rows.dim() - 3));
    const at::Tensor& all = storage.back();
    a.kind = is_bool ? Kind::shown : Kind::added;
    a.data = all.const_data_ptr();
    a.batch = to_strided(all, all.dim() - 3);
    a.head_stride = all.stride(-3);
    a.query_stride = all.stride(-2);
  }
  return a;
}

}  // namespace

args::BiasSoftmax softmax_args(at::IntArrayRef sizes, at::ScalarType type, const at::Tensor& table,
                               bool heads_first, const SoftmaxOptions& options,
                               std::vector<at::Tensor>& storage) {
  const at::ScalarType wide = sum_type(type);
  at::Tensor values = table.to(wide);
  if (heads_first) {
    values = values.reshape({values.size(0), -1});
    if (values.stride(1) != 1) values = values.contiguous();
    values = values.t();
  }
  storage.push_back(values);
  const int64_t heads = sizes[sizes.size() - 3];
  int64_t batch = 1;
  for (const int64_t size : sizes.slice(0, sizes.size() - 3)) batch *= size;
  return {to_core(type),
          batch,
          /*scores=*/nullptr,
          options.scale,
          {to_core(wide), values.const_data_ptr(), values.stride(0), values.stride(1), heads, nullptr},
          mask_args(sizes, wide, options, storage),
          /*first_sample=*/0,
          /*out=*/nullptr};
}

args::BiasSoftmaxBackward softmax_backward_args(const at::Tensor& grad, const at::Tensor& result,
                                                bool heads_first, double scale, const at::Tensor& grad_scores,
                                                const at::Tensor& partial, const at::Tensor& grad_table,
                                                std::vector<at::Tensor>& storage) {
  const int64_t heads = grad.size(-3), plane = grad.size(-2) * grad.size(-1);
  const int64_t rows = grad_table.numel() / heads;
  storage = {grad.contiguous(), result.contiguous()};
  return {to_core(grad.scalar_type()),
          grad.numel() / (heads * plane),
          heads,
          storage[0].const_data_ptr(),
          storage[1].const_data_ptr(),
          scale,
          grad_scores.mutable_data_ptr(),
          partial.defined() ? partial.mutable_data_ptr() : nullptr,
          grad_table.numel() == 0 ? nullptr : grad_table.mutable_data_ptr(),
          heads_first ? 1 : heads,
          heads_first ? rows : 1,
          /*non_temporal=*/false};
}

// ---- Ops that are made of those above

bool is_plain(const at::Tensor& x) {
  return !x.key_set().has_any(
      c10::DispatchKeySet({c10::DispatchKey::Python, c10::DispatchKey::Functionalize,
                           c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::FuncTorchGradWrapper}));
}

// A second result, as the gradient of softmax takes what was dropped, too.
at::Tensor drop(const char* op, const at::Tensor& result, double dropout_p, bool training) {
  check_dropout({{op, {}, {}}, result, 1.0, dropout_p});
  const std::optional<at::Tensor> seed = draw_seed(result, dropout_p, training);
  return drops(dropout_p, seed) ? call_scale_dropout(result, 1.0, dropout_p, seed) : result;
}

namespace {

using Options = const std::optional<at::Tensor>&;

// Softmax over the scores, also where tensors are traced or transformed.
template <class Op, class... Args>
at::Tensor& over_scores(at::Tensor& scores, const at::Tensor& table, Args... args, double scale, Options mask,
                        Options regions, bool causal, c10::SymInt q_offset) {
  if (is_plain(scores) && is_plain(table)) {
    return call_bias_softmax_in_place<Op, Args...>(scores, table, args..., scale, mask, regions, causal,
                                                   std::move(q_offset));
  }
  return scores.copy_(call_bias_softmax<Op, Args...>(scores, table, args..., scale, mask, regions, causal,
                                                     std::move(q_offset)));
}

template <class Op, class Signature>
struct Composed;

template <class Op, class... Args>
struct Composed<Op, void (*)(const char*, const at::Tensor&, const BiasSizes&, Args...)> {
  static constexpr auto in_place = TORCH_FN((over_scores<Op, Args...>));

  static at::Tensor with_dropout(const at::Tensor& scores, const at::Tensor& table, Args... args,
                                 double scale, Options mask, Options regions, bool causal,
                                 c10::SymInt q_offset, double dropout_p, bool training) {
    return drop(Op::name,
                call_bias_softmax<Op, Args...>(scores, table, args..., scale, mask, regions, causal,
                                               std::move(q_offset)),
                dropout_p, training);
  }
};

at::Tensor t5_bias_softmax(const at::Tensor& scores, const at::Tensor& table, bool bidirectional,
                           int64_t max_distance, double scale, Options mask, Options regions, bool causal,
                           c10::SymInt q_offset) {
  const char* op = "t5_bias_softmax";
  check_softmax(op, scores, "table", table, {scale, mask, regions, causal, q_offset}, scores.device());
  return call_bias_softmax<DiagonalSoftmax>(
      scores, t5_diagonals(op, table, bias_sizes(scores), bidirectional, max_distance, q_offset), scale, mask,
      regions, causal, q_offset);
}

at::Tensor& t5_bias_softmax_in_place(at::Tensor& scores, const at::Tensor& table, bool bidirectional,
                                     int64_t max_distance, double scale, Options mask, Options regions,
                                     bool causal, c10::SymInt q_offset) {
  const char* op = "t5_bias_softmax";
  check_softmax(op, scores, "table", table, {scale, mask, regions, causal, q_offset}, scores.device());
  return over_scores<DiagonalSoftmax>(
      scores, t5_diagonals(op, table, bias_sizes(scores), bidirectional, max_distance, q_offset), scale, mask,
      regions, causal, q_offset);
}

at::Tensor t5_bias_softmax_dropout(const at::Tensor& scores, const at::Tensor& table, bool bidirectional,
                                   int64_t max_distance, double scale, Options mask, Options regions,
                                   bool causal, c10::SymInt q_offset, double dropout_p, bool training) {
  return drop("t5_bias_softmax",
              t5_bias_softmax(scores, table, bidirectional, max_distance, scale, mask, regions, causal,
                              std::move(q_offset)),
              dropout_p, training);
}

at::Tensor alibi_bias_softmax(const at::Tensor& scores, const at::Tensor& slopes, double scale, Options mask,
                              Options regions, bool causal, c10::SymInt q_offset) {
  const char* op = "alibi_bias_softmax";
  check_softmax(op, scores, "slopes", slopes, {scale, mask, regions, causal, q_offset}, scores.device());
  return call_bias_softmax<DiagonalSoftmax>(scores, alibi_diagonals(op, slopes, scores, q_offset), scale,
                                            mask, regions, causal, q_offset);
}

at::Tensor& alibi_bias_softmax_in_place(at::Tensor& scores, const at::Tensor& slopes, double scale,
                                        Options mask, Options regions, bool causal, c10::SymInt q_offset) {
  const char* op = "alibi_bias_softmax";
  check_softmax(op, scores, "slopes", slopes, {scale, mask, regions, causal, q_offset}, scores.device());
  return over_scores<DiagonalSoftmax>(scores, alibi_diagonals(op, slopes, scores, q_offset), scale, mask,
                                      regions, causal, q_offset);
}

at::Tensor alibi_bias_softmax_dropout(const at::Tensor& scores, const at::Tensor& slopes, double scale,
                                      Options mask, Options regions, bool causal, c10::SymInt q_offset,
                                      double dropout_p, bool training) {
  return drop("alibi_bias_softmax",
              alibi_bias_softmax(scores, slopes, scale, mask, regions, causal, std::move(q_offset)),
              dropout_p, training);
}

TORCH_LIBRARY_IMPL(posenc_ext, CompositeImplicitAutograd, m) {
  BiasSoftmaxOps::for_each([&m]<class Op>(Op*) {
    using Implementation = Composed<Op, decltype(&Op::check)>;
    m.impl((std::string(Op::name) + "_").c_str(), Implementation::in_place);
    m.impl((std::string(Op::name) + ".dropout").c_str(), TORCH_FN(Implementation::with_dropout));
  });
  m.impl("t5_bias_softmax", TORCH_FN(t5_bias_softmax));
  m.impl("t5_bias_softmax_", TORCH_FN(t5_bias_softmax_in_place));
  m.impl("t5_bias_softmax.dropout", TORCH_FN(t5_bias_softmax_dropout));
  m.impl("alibi_bias_softmax", TORCH_FN(alibi_bias_softmax));
  m.impl("alibi_bias_softmax_", TORCH_FN(alibi_bias_softmax_in_place));
  m.impl("alibi_bias_softmax.dropout", TORCH_FN(alibi_bias_softmax_dropout));
}

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) { register_bias_softmax_ops<BiasSoftmaxOn<Meta>::Kernels>(m); }

}  // namespace

// T5 and ALiBi are diagonal biases: those of one query that is before all keys. Their values are in the
// accumulator's type, so that the gradient of the table, and the product of a slope, are rounded once.
at::Tensor t5_diagonals(const char* op, const at::Tensor& table, const BiasSizes& sizes, bool bidirectional,
                        int64_t max_distance, const c10::SymInt& q_offset) {
  check_columns(op, table, sizes);
  T5Bias::check_rows(op, table.sym_size(0), bidirectional, max_distance);
  return call_bias<T5Bias, c10::SymInt, c10::SymInt, c10::SymInt, bool, int64_t>(
             table.to(sum_type(table.scalar_type())), 1, diagonals_of(sizes), q_offset + sizes.queries - 1,
             bidirectional, max_distance)
      .squeeze(1);
}

at::Tensor alibi_diagonals(const char* op, const at::Tensor& slopes, const at::Tensor& scores,
                           const c10::SymInt& q_offset) {
  const BiasSizes sizes = bias_sizes(scores);
  POSENC_CHECK(slopes.dim() == 1 && slopes.sym_size(0) == sizes.heads, op,
               "slopes must have the shape [heads] of scores, here [", sizes.heads, "], got ",
               slopes.sym_sizes());
  const at::ScalarType type =
      at::promote_types(sum_type(slopes.scalar_type()), sum_type(scores.scalar_type()));
  return call_alibi_bias(slopes.to(type), 1, diagonals_of(sizes), q_offset + sizes.queries - 1,
                         /*causal=*/false)
      .squeeze(1);
}

}  // namespace posenc_ext::ops

namespace posenc_ext {
namespace {

template <ops::Text name, class... Args>
at::Tensor softmax(const at::Tensor& scores, const at::Tensor& table, Args... args,
                   const AttentionOptions& options) {
  using Optional = const std::optional<at::Tensor>&;
  const double scale = options.scale.value_or(1.0);
  if (!options.inplace) {
    static const auto op =
        ops::find_op<at::Tensor(const at::Tensor&, const at::Tensor&, Args..., double, Optional, Optional,
                                bool, c10::SymInt, double, bool)>(name.value, "dropout");
    return op.call(scores, table, args..., scale, options.mask, options.regions, options.causal,
                   options.q_offset, options.dropout_p, options.training);
  }
  POSENC_CHECK(!options.training || options.dropout_p == 0.0, name.value,
               "inplace must be False with dropout, got True");
  static const auto op =
      ops::find_op<at::Tensor&(at::Tensor&, const at::Tensor&, Args..., double, Optional, Optional, bool,
                               c10::SymInt)>(std::string(name.value) + "_");
  at::Tensor result = scores;
  return op.call(result, table, args..., scale, options.mask, options.regions, options.causal,
                 options.q_offset);
}

}  // namespace

at::Tensor window_bias_softmax(const at::Tensor& scores, const at::Tensor& table, at::IntArrayRef window,
                               at::OptionalIntArrayRef query_size, int64_t prefix_tokens,
                               const AttentionOptions& options) {
  at::OptionalSymIntArrayRef queries;
  if (query_size.has_value()) queries = c10::fromIntArrayRefSlow(*query_size);
  return softmax<"window_bias_softmax", c10::SymIntArrayRef, at::OptionalSymIntArrayRef, int64_t>(
      scores, table, c10::fromIntArrayRefSlow(window), queries, prefix_tokens, options);
}

at::Tensor diagonal_bias_softmax(const at::Tensor& scores, const at::Tensor& diagonals,
                                 const AttentionOptions& options) {
  return softmax<"diagonal_bias_softmax">(scores, diagonals, options);
}

at::Tensor gather_bias_softmax(const at::Tensor& scores, const at::Tensor& table, const at::Tensor& index,
                               const AttentionOptions& options) {
  return softmax<"gather_bias_softmax", const at::Tensor&>(scores, table, index, options);
}

at::Tensor bias_softmax(const at::Tensor& scores, const at::Tensor& bias, const AttentionOptions& options) {
  return softmax<"bias_softmax">(scores, bias, options);
}

at::Tensor t5_bias_softmax(const at::Tensor& scores, const at::Tensor& table, bool bidirectional,
                           int64_t max_distance, const AttentionOptions& options) {
  return softmax<"t5_bias_softmax", bool, int64_t>(scores, table, bidirectional, max_distance, options);
}

at::Tensor alibi_bias_softmax(const at::Tensor& scores, const at::Tensor& slopes,
                              const AttentionOptions& options) {
  return softmax<"alibi_bias_softmax">(scores, slopes, options);
}

}  // namespace posenc_ext
