"""The table of ops that the property tests walk, by way of `support.cases`: a new op is one more entry."""

import op_add_sinusoidal as add
import op_alibi_bias as alibi
import op_gather_bias as gather
import op_position_embedding as embed
import op_relative_bias as bias
import op_sinusoidal as sinusoid
import op_t5_bias as t5
from op_out import UNSUPPORTED, into
from op_types import Op

from posenc_ext import reference

NO_TENSOR = "takes no tensor: there is nothing to trace"

WRITES_LIKE = {"window_bias": "table", "t5_bias": "table", "gather_bias": "table", "alibi_bias": "slopes"}

OPS = (
    Op(
        "sinusoidal_table",
        sinusoid.table_samples,
        reference.sinusoidal_table,
        sinusoid.table_errors,
        error_bound=sinusoid.sinusoid_bound,
        costly=("concat-sin7", "negative-start"),
        unsupported={"trace": NO_TENSOR},
    ),
    Op(
        "sinusoidal_table.out",
        sinusoid.table_out_samples,
        sinusoid.table_out_reference,
        sinusoid.table_out_errors,
        error_bound=sinusoid.sinusoid_bound,
        costly=("out-strided",),
        unsupported=UNSUPPORTED,
    ),
    Op(
        "sinusoidal",
        sinusoid.samples,
        reference.sinusoidal,
        sinusoid.errors,
        differentiable=("positions",),
        error_bound=sinusoid.sinusoid_bound,
        costly=("diffusion", "positions-strided", "integer-default"),
    ),
    Op(
        "_sinusoidal",
        sinusoid.derivative_samples,
        sinusoid.derivative_reference,
        sinusoid.derivative_errors,
        differentiable=("positions",),
        error_bound=sinusoid.sinusoid_bound,
        costly=("concat-derivative2",),
    ),
    Op(
        "_sinusoidal_backward",
        sinusoid.backward_samples,
        sinusoid.backward_reference,
        sinusoid.backward_errors,
        differentiable=("grad", "positions"),
        error_bound=sinusoid.backward_bound,
        costly=("grad-transposed",),
    ),
    Op(
        "add_sinusoidal",
        add.samples,
        reference.add_sinusoidal,
        add.errors,
        differentiable=("x",),
        error_bound=add.add_bound,
        costly=("x-strided", "x-contiguous-sequence-first"),
    ),
    Op(
        "add_sinusoidal.offsets",
        add.offsets_samples,
        reference.add_sinusoidal,
        add.offsets_errors,
        differentiable=("x",),
        error_bound=add.add_bound,
        costly=("x-contiguous",),
    ),
    Op(
        "_add_sinusoidal",
        add.with_seed_samples,
        add.with_seed_reference,
        add.with_seed_errors,
        differentiable=("x",),
        error_bound=add.add_bound,
        costly=("x-strided-sequence-first", "x-offset"),
    ),
    Op(
        "_scale_dropout",
        add.scale_dropout_samples,
        add.scale_dropout_reference,
        add.scale_dropout_errors,
        differentiable=("x",),
        error_bound=add.scale_dropout_bound,
        costly=("x-strided",),
    ),
    Op(
        "add_position_embedding",
        embed.samples,
        reference.add_position_embedding,
        embed.errors,
        differentiable=("x", "pos_embed", "prefix_tokens"),
        error_bound=embed.add_bound,
        costly=("registers", "cls-dist-patches-embedded-sequence-first", "image", "x-scale"),
        batched=True,
    ),
    Op(
        "_add_position_embedding",
        embed.with_seed_samples,
        reference.embed_with_seed,
        embed.with_seed_errors,
        differentiable=("x", "pos_embed", "prefix_tokens"),
        error_bound=embed.add_bound,
        costly=(
            "registers-patches-embedded",
            "none-sequence-first",
            "image-sequence-first",
            "pos-one-between",
        ),
        batched=True,
    ),
    Op(
        "_sum_batch",
        embed.sum_batch_samples,
        reference.sum_batch,
        embed.sum_batch_errors,
        differentiable=("grad",),
        error_bound=embed.sum_batch_bound,
        costly=("grad-strided", "grad-transposed-sequence-first"),
    ),
    Op(
        "window_bias",
        bias.samples,
        reference.window_bias,
        bias.errors,
        differentiable=("table",),
        costly=("window[3, 2]-prefix", "window[2, 3]-query[4, 6]", "table-transposed"),
    ),
    Op(
        "_window_bias_backward",
        bias.backward_samples,
        bias.backward_reference,
        bias.backward_errors,
        differentiable=("grad",),
        error_bound=bias.backward_bound,
        costly=("window[3, 2]-prefix", "grad-transposed-query-prefix"),
    ),
    Op(
        "t5_bias",
        t5.samples,
        reference.t5_bias,
        t5.errors,
        differentiable=("table",),
        costly=("both-cross", "causal-decode", "table-transposed"),
    ),
    Op(
        "_t5_bias_backward",
        t5.backward_samples,
        t5.backward_reference,
        t5.backward_errors,
        differentiable=("grad",),
        error_bound=t5.backward_bound,
        costly=("both-cross", "grad-transposed"),
    ),
    Op(
        "gather_bias",
        gather.samples,
        reference.gather_bias,
        gather.errors,
        differentiable=("table",),
        costly=("index[2, 3, 4]", "int32", "table-transposed"),
    ),
    Op(
        "_gather_bias_backward",
        gather.backward_samples,
        gather.backward_reference,
        gather.backward_errors,
        differentiable=("grad",),
        error_bound=gather.backward_bound,
        costly=("index[2, 3, 4]", "grad-transposed"),
    ),
    Op(
        "alibi_slopes",
        alibi.slope_samples,
        reference.alibi_slopes,
        alibi.slope_errors,
        costly=("heads12",),
        unsupported={"trace": NO_TENSOR},
    ),
    Op(
        "alibi_slopes.out",
        alibi.slope_out_samples,
        alibi.slope_out_reference,
        alibi.slope_out_errors,
        costly=("out-strided",),
        unsupported=UNSUPPORTED,
    ),
    Op(
        "alibi_bias",
        alibi.samples,
        reference.alibi_bias,
        alibi.errors,
        differentiable=("slopes",),
        costly=("cross", "decode", "slopes-strided"),
    ),
    Op(
        "_alibi_bias_backward",
        alibi.backward_samples,
        alibi.backward_reference,
        alibi.backward_errors,
        differentiable=("grad",),
        error_bound=alibi.backward_bound,
        costly=("cross", "grad-transposed"),
    ),
)
# Ops on tensors also write into `out`, of the dtype and device of the argument named here.
OPS += tuple(into(op, WRITES_LIKE[op.name]) for op in OPS if op.name in WRITES_LIKE)
