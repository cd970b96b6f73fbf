// Attention on the CPU where no gradient is needed: in tiles of samples and heads, whose scores stay in the
// caches between the products and are never stored whole.
#include "ops/attention.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>

#include "cpu/device.h"
#include "cpu/kernels/kernels.h"
#include "cpu/parallel.h"

namespace posenc_ext::cpu {
namespace {

constexpr int64_t kTileBytes = int64_t{1} << 19;  // half of an L2 cache, or less

struct FillAttention {
  template <class Op, class... Args>
  void operator()(ops::Attention<Op, Args...>& arguments, const at::Tensor& out) const {
    const auto scheme = arguments.scheme();
    const at::Tensor &q = arguments.q, &k = arguments.k, &v = arguments.v;
    const int64_t heads = q.size(-3), queries = q.size(-2), keys = k.size(-2);
    const int64_t samples = out.numel() / (heads * queries * v.size(-1));
    if (keys == 0) return void(out.zero_());
    const auto four = [&](const at::Tensor& x) {
      return x.reshape({samples, heads, x.size(-2), x.size(-1)});
    };
    const at::Tensor q4 = four(q), k4 = four(k).transpose(-2, -1), v4 = four(v), out4 = four(out);

    // Tiles of whole samples, or of the heads of one.
    const int64_t plane = queries * keys * q.element_size();
    const int64_t tile_heads = core::min_of(heads, core::max_of<int64_t>(1, kTileBytes / plane));
    const int64_t tile_samples =
        tile_heads < heads ? 1
                           : core::min_of(samples, core::max_of<int64_t>(1, kTileBytes / (heads * plane)));
    const int64_t tiles_of_sample = (heads + tile_heads - 1) / tile_heads;
    const int64_t tiles = (samples + tile_samples - 1) / tile_samples * tiles_of_sample;

    c10::DimVector sizes(q.sizes());
    sizes.back() = keys;
    std::vector<at::Tensor> storage;
    const BiasSoftmax whole = ops::softmax_args(sizes, q.scalar_type(), arguments.table, Op::kHeadsFirst,
                                                arguments.softmax, storage);
    const auto attend_tiles = [&](int64_t begin, int64_t end) {
      const at::NoGradGuard no_grad;  // threads have modes of their own
      const at::AutoDispatchBelowADInplaceOrView below;
      const at::Tensor scores = at::empty({tile_samples * tile_heads, queries, keys}, q.options());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t sample = i / tiles_of_sample * tile_samples, head = i % tiles_of_sample * tile_heads;
        const int64_t own_samples = core::min_of(tile_samples, samples - sample);
        const int64_t own_heads = core::min_of(tile_heads, heads - head), planes = own_samples * own_heads;
        const auto tile = [&](const at::Tensor& x) {
          return x.narrow(0, sample, own_samples).narrow(1, head, own_heads).flatten(0, 1);
        };
        at::Tensor own = scores.narrow(0, 0, planes), result = tile(out4);
        at::bmm_out(own, tile(q4), tile(k4));
        BiasSoftmax a = whole.of_tile(sample, own_samples, head, own_heads);
        a.scores = a.out = own.mutable_data_ptr();
        parallel_for(planes * queries, 2 * keys, [&](int64_t first, int64_t last) {
          kernels().softmax[scheme].forward(scheme, a, first, last);
        });
        at::bmm_out(result, own, tile(v4));
      }
    };
    // One parallel region in all, unless there is one tile: then products and rows are shared by threads.
    if (tiles == 1) return attend_tiles(0, 1);
    parallel_ranges(tiles, 1, attend_tiles);
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  ops::register_attention_ops<ops::AttentionOn<Cpu, FillAttention{}>::Kernels>(m);
}

}  // namespace posenc_ext::cpu
