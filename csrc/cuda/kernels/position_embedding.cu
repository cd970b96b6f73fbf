// Launches of the position-embedding kernels: which variant, how the work is cut.
#include "cuda/kernels/position_embedding.cuh"

#include <type_traits>

#include "cuda/kernels/positions.cuh"

namespace posenc_ext::cuda {
namespace {

constexpr int64_t kMaxChunkSamples = 8;  // that share a load of pos

bool in_vectors(const Tokens& tokens, int64_t size) {
  return tokens.channel_stride == 1 && is_aligned(tokens.data) && is_aligned(tokens.batch_stride, size) &&
         is_aligned(tokens.token_stride, size);
}

bool in_vectors(const void* data, const Strided& rows, int64_t channel_stride, int64_t size) {
  bool aligned = channel_stride == 1 && is_aligned(data);
  for (int32_t d = 0; d < rows.dims; ++d) aligned = aligned && is_aligned(rows.stride[d], size);
  return aligned;
}

// Calls f with the scales as sums of T take them: doubles, float pairs for float, floats for the half types.
// Doubles, too, where they do not fit.
template <class T, class Arguments, class F>
void with_scales(const Arguments& a, F f) {
  const Scales<double> scales{a.x_scale, a.dropout.dropout.scale};
  if constexpr (!std::is_same_v<T, double>) {
    if (fits_float_pair(a.x_scale)) {
      const Scales<FloatPair> pairs = to_float_pairs(scales);
      if constexpr (kIsHalf<T>) {
        return f(Scales<float>{pairs.x.hi, pairs.retained.hi});
      } else {
        return f(pairs);
      }
    }
  }
  f(scales);
}

// Tokens [first, last), which are prefix tokens alone where `last` says so.
void launch_tokens(const AddPositionEmbedding& a, int64_t first, int64_t last, cudaStream_t stream) {
  const int64_t size = core::element_size(a.dtype);
  bool vectors = is_aligned(a.dim, size) &&
                 in_vectors({a.pos, 0, a.pos_token_stride, a.pos_channel_stride}, size) &&
                 in_vectors({a.out, a.out_batch_stride, a.out_token_stride, 1}, size);
  if (last > a.prefix_length) vectors = vectors && in_vectors(a.x, size);
  for (int32_t i = 0; i < a.prefixes; ++i) vectors = vectors && in_vectors(a.prefix[i], size);
  const int64_t owned = vectors ? kVectorBytes / size : 1;
  const int64_t columns = (last - first) * (a.dim / owned);
  // As few samples a chunk as keep the device busy: a chunk loads pos anew.
  const int64_t wanted = kBlocksPerMultiprocessor * multiprocessors();
  TokenSplit split{first, last, 0, 0, {}, {}};
  const int64_t chunks = core::min_of(a.batch, divide_up(wanted, divide_up(columns, kThreads)));
  split.chunk_samples = core::min_of(kMaxChunkSamples, divide_up(a.batch, chunks));
  split.chunks = divide_up(a.batch, split.chunk_samples);
  split.columns = make_divide(columns, columns * split.chunks);
  split.token_columns = make_divide(a.dim / owned, columns);
  const int64_t blocks = clamped_grid(divide_up(columns * split.chunks, kThreads), kBlocksPerMultiprocessor);
  POSENC_DISPATCH_DTYPE(a.dtype, with_scales<scalar_t>(a, [&]<class Real>(const Scales<Real>& scales) {
                          const auto kernel = vectors ? add_position_embedding_kernel<scalar_t, Real>
                                                      : add_position_embedding_strided_kernel<scalar_t, Real>;
                          launch(kernel, blocks, kThreads, stream, a, split, scales);
                        }))
}

void launch_transposed(const AddPositionEmbedding& a, cudaStream_t stream) {
  const int64_t tiles = divide_up(a.length - a.prefix_length, kSquare) * divide_up(a.dim, kSquare);
  const int64_t blocks = clamped_grid(a.batch * tiles, kBlocksPerMultiprocessor);
  const dim3 threads(kSquare, kThreads / kSquare);
  POSENC_DISPATCH_DTYPE(a.dtype, with_scales<scalar_t>(a, [&]<class Real>(const Scales<Real>& scales) {
                          launch(add_position_embedding_transposed_kernel<scalar_t, Real>, blocks, threads,
                                 stream, a, scales);
                        }))
}

}  // namespace

void add_position_embedding(const AddPositionEmbedding& a, cudaStream_t stream) {
  if (a.x.channel_stride <= a.x.token_stride || a.length == a.prefix_length) {
    return launch_tokens(a, 0, a.length, stream);
  }
  if (a.prefix_length > 0) launch_tokens(a, 0, a.prefix_length, stream);
  launch_transposed(a, stream);
}

void sum_batch(const SumBatch& a, cudaStream_t stream) {
  const int64_t size = core::element_size(a.dtype);
  const bool vectors = a.column_stride == 1 && a.out_column_stride == 1 && is_aligned(a.grad) &&
                       is_aligned(a.out) && is_aligned(a.columns, size) && is_aligned(a.batch_stride, size) &&
                       is_aligned(a.row_stride, size) && is_aligned(a.out_row_stride, size);
  const int64_t owned = kWarp * (vectors ? kVectorBytes / size : 1);
  const int64_t blocks = clamped_grid(a.rows * divide_up(a.columns, owned), kBlocksPerMultiprocessor);
  const dim3 threads(kWarp, kSumSlices);
  if (vectors) {
    POSENC_DISPATCH_DTYPE(a.dtype, launch(sum_batch_kernel<scalar_t>, blocks, threads, stream, a))
  } else {
    POSENC_DISPATCH_DTYPE(a.dtype, launch(sum_batch_strided_kernel<scalar_t>, blocks, threads, stream, a))
  }
}

void add_positions(const AddPositions& a, cudaStream_t stream) {
  const int64_t size = core::element_size(a.dtype);
  const bool vectors = is_aligned(a.dim, size) && in_vectors(a.x, a.x_at, a.x_channel_stride, size) &&
                       in_vectors({a.table, 0, a.table_row_stride, a.table_channel_stride}, size) &&
                       is_aligned(a.out);
  const int64_t columns = vectors ? a.dim * size / kVectorBytes : a.dim;
  const Divide divide = make_divide(columns, a.count * columns);
  const int64_t blocks = clamped_grid(divide_up(a.count * columns, kThreads), kBlocksPerMultiprocessor);
  POSENC_DISPATCH_DTYPE(a.dtype, with_scales<scalar_t>(a, [&]<class Real>(const Scales<Real>& scales) {
                          const auto kernel = vectors ? add_positions_kernel<scalar_t, Real>
                                                      : add_positions_strided_kernel<scalar_t, Real>;
                          launch(kernel, blocks, kThreads, stream, a, divide, scales);
                        }))
}

void sum_positions(const SumPositions& a, cudaStream_t stream) {
  const int64_t size = core::element_size(a.dtype);
  const bool vectors =
      is_aligned(a.dim, size) && in_vectors(a.grad, a.grad_at, a.channel_stride, size) && is_aligned(a.out);
  const int64_t columns = vectors ? a.dim * size / kVectorBytes : a.dim;
  const Divide divide = make_divide(columns, a.rows * columns);
  const int64_t blocks = clamped_grid(divide_up(a.rows * columns, kThreads), kBlocksPerMultiprocessor);
  POSENC_DISPATCH_DTYPE(a.dtype, {
    const auto kernel = vectors ? sum_positions_kernel<scalar_t> : sum_positions_strided_kernel<scalar_t>;
    launch(kernel, blocks, kThreads, stream, a, divide);
  })
}

}  // namespace posenc_ext::cuda
