// CPU kernels of ALiBi.
#pragma once

#include "core/alibi.h"
#include "core/scalar.h"

namespace posenc_ext::args {

// out[head, q, k] = -slopes[head] * distance(q, k); an item is one query of one head.
struct AlibiForward {
  core::AlibiDistance distance;
  core::DType dtype;
  const void* slopes;
  int64_t slope_stride;
  int64_t queries, keys;
  void* out;         // contiguous
  bool past_caches;  // how it is written
};

// partial[head, q] = the sum over k of -distance(q, k) * grad[head, q, k]; an item is one query of one head.
struct AlibiBackward {
  core::AlibiDistance distance;
  core::DType dtype;
  const void* grad;
  int64_t head_stride, query_stride, key_stride;
  int64_t queries, keys;
  double* partial;
};

// out[head] = the sum over q of partial[head, q]; an item is one head.
struct AlibiReduce {
  core::DType dtype;
  const double* partial;
  int64_t queries;
  void* out;
};

}  // namespace posenc_ext::args
