// The op that scales and drops, on the CPU. No work is divided by thread count.
#include "ops/dropout.h"

#include "cpu/device.h"
#include "cpu/kernels/kernels.h"
#include "cpu/parallel.h"

namespace posenc_ext::cpu {
namespace {

void scale_dropout(ops::Dropping& arguments, const at::Tensor& out) {
  constexpr int64_t kStretch = 4096;
  ScaleDropout a{ops::fill_args(arguments, out), {}, 1, 1, wants_non_temporal_stores(out)};
  // Items are stretches of the last dimension where x has only one, and all of it otherwise.
  if (a.at.dims > 0) {
    const int32_t last = a.at.dims - 1;
    a.inner = a.at.dims == 1 ? core::min_of(kStretch, a.at.size[last]) : a.at.size[last];
    a.inner_stride = a.at.stride[last];
    a.outer = a.at;
    if (last == 0) {
      a.outer = {1, {a.items()}, {a.inner * a.inner_stride}};
    } else {
      a.outer.dims = last;
    }
  }
  parallel_for(a.items(), a.inner,
               [&](int64_t begin, int64_t end) { kernels().scale_dropout(a, begin, end); });
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("_scale_dropout", ops::kernel<Cpu, ops::check_scale_dropout, scale_dropout>());
}

}  // namespace posenc_ext::cpu
