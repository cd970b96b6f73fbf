// The relative-position biases on CUDA: from tensors to pointers, device guard, stream.
#include "cuda/kernels/relative_bias.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "ops/bias_args.h"
#include "ops/relative_bias.h"

namespace posenc_ext::cuda {
namespace {

template <class Op, class Signature>
struct Bias;

template <class Op, class... Args>
struct Bias<Op, ops::BiasShape (*)(const c10::SymInt&, Args...)> {
  static at::Tensor forward(const at::Tensor& table, Args... args) {
    const ops::BiasShape shape = ops::check_bias<Op>(table, args...);
    const c10::cuda::CUDAGuard guard(table.device());
    at::Tensor out =
        at::empty({table.size(1), shape.queries.expect_int(), shape.keys.expect_int()}, table.options());
    write(table, Op::scheme(table.size(0), args...), out);
    return out;
  }

  static at::Tensor& forward_out(const at::Tensor& table, Args... args, at::Tensor& out) {
    const c10::cuda::CUDAGuard guard(table.device());
    ops::check_bias_out<Op>(table, out, args...);
    return ops::write_contiguous(
        out, [&](at::Tensor& o) { write(table, Op::scheme(table.size(0), args...), o); }, table);
  }

  static at::Tensor backward(const at::Tensor& grad, c10::SymInt num_rows, Args... args) {
    ops::check_bias_backward<Op>(grad, num_rows, args...);
    const c10::cuda::CUDAGuard guard(grad.device());
    const typename Op::Scheme scheme = Op::scheme(num_rows.expect_int(), args...);
    const int64_t heads = grad.size(0);
    at::Tensor out = at::empty({scheme.rows(), heads}, grad.options());
    if (grad.numel() == 0) return out.zero_();
    POSENC_CHECK(core::make_device_scheme(scheme).slots_fit, Op::backward_name,
                 "grad must have fewer than 2**32 queries and keys on CUDA, got shape ", grad.sizes());
    const int64_t pieces = cut_rows(scheme).count;
    const at::Tensor partial = at::empty({pieces == 1 ? 0 : scheme.rows() * heads * pieces},
                                         grad.options().dtype(ops::sum_type(grad.scalar_type())));
    kBiasKernels[scheme].backward(scheme, ops::bias_backward_args(grad, partial, out),
                                  c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return out;
  }

 private:
  static void write(const at::Tensor& table, const typename Op::Scheme& scheme, at::Tensor& out) {
    if (out.numel() == 0) return;
    kBiasKernels[scheme].forward(scheme, ops::bias_forward_args(table, out),
                                 c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) { ops::register_bias_ops<Bias>(m); }

}  // namespace posenc_ext::cuda
