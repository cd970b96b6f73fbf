// The table of the kernels of one CPU level.
#pragma once

#include "cpu/kernels/add_sinusoidal-inl.h"
#include "cpu/kernels/alibi_bias-inl.h"
#include "cpu/kernels/bias_softmax-inl.h"
#include "cpu/kernels/dropout-inl.h"
#include "cpu/kernels/gather_bias-inl.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/position_embedding-inl.h"
#include "cpu/kernels/positions-inl.h"
#include "cpu/kernels/relative_bias-inl.h"
#include "cpu/kernels/sinusoidal-inl.h"
#include "cpu/kernels/sinusoidal_rows-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {

const Kernels kKernels = {
    .sinusoid_rows = sinusoid_rows,
    .sinusoid_steps = sinusoid_steps,
    .sinusoid_anchors = sinusoid_anchors,
    .sinusoid_table = sinusoid_table,
    .sinusoid_backward = sinusoid_backward,
    .add_sinusoidal = add_sinusoidal,
    .scale_dropout = scale_dropout,
    .add_position_embedding = add_position_embedding,
    .sum_batch = sum_batch,
    .add_positions = add_positions,
    .sum_positions = sum_positions,
    .bias_reduce = bias_reduce,
    .bias = bias_kernels(Schemes()),
    .find_out_of_range = find_out_of_range,
    .gather_forward = gather_forward,
    .gather_backward = gather_backward,
    .alibi_forward = alibi_forward,
    .alibi_backward = alibi_backward,
    .alibi_reduce = alibi_reduce,
    .softmax = softmax_kernels(SoftmaxSchemes()),
};

}  // namespace posenc_ext::cpu::POSENC_LEVEL
