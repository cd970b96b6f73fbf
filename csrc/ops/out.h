// The rules on `out`, the argument that an op writes its result into.
#pragma once

#include <vector>

#include "ops/types.h"

namespace posenc_ext::ops {

// `out` must have the dtype and the device of an input.
void check_out_like(const char* op, const char* argument, const at::Tensor& input, const at::Tensor& out);

// `out` must have the shape of the result; an empty one is resized to it.
void resize_out(const char* op, c10::SymIntArrayRef shape, const at::Tensor& out);

struct Input {
  const char* name;
  at::Tensor tensor;
  bool may_be_out = false;  // an element of the result is computed from the element at its place alone
};

// `out`, which errors call `name`, must not overlap an input, except for one that may be `out`. False where
// it may share memory with an input in a way that cannot be determined: the result must then be computed in
// separate memory.
bool check_inputs(const char* op, const std::vector<Input>& inputs, const at::Tensor& out,
                  const char* name = "out");

}  // namespace posenc_ext::ops
