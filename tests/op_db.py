"""The table of ops that the property tests walk, by way of `support.cases`: a new op is one more entry."""

from dataclasses import replace

import op_add_sinusoidal as add
import op_alibi_bias as alibi
import op_attention as attention
import op_bias_softmax as softmax
import op_gather_bias as gather
import op_position_embedding as embed
import op_positions as at
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
        "sinusoidal.out",
        sinusoid.out_samples,
        sinusoid.out_reference,
        sinusoid.out_errors,
        error_bound=sinusoid.out_bound,
        costly=("diffusion-out", "diffusion-out-strided"),
        unsupported=UNSUPPORTED,
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
        "add_sinusoidal.out",
        add.out_samples,
        add.out_reference,
        add.plain_out_errors,
        error_bound=add.add_bound,
        costly=("out-strided",),
        unsupported=UNSUPPORTED,
    ),
    Op(
        "add_sinusoidal.offsets_out",
        add.offsets_out_samples,
        add.out_reference,
        add.offsets_out_errors,
        error_bound=add.add_bound,
        costly=("out-strided",),
        unsupported=UNSUPPORTED,
    ),
    Op(
        "add_sinusoidal.positions",
        add.positions_samples,
        reference.add_sinusoidal,
        add.positions_errors,
        differentiable=("x",),
        error_bound=add.add_bound,
        costly=("x-contiguous", "x[2, 3, 4]-at[1, 3]"),
    ),
    Op(
        "add_sinusoidal.positions_out",
        add.positions_out_samples,
        add.out_reference,
        add.positions_out_errors,
        error_bound=add.add_bound,
        costly=("out-strided",),
        unsupported=UNSUPPORTED,
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
        "add_position_embedding.out",
        embed.out_samples,
        embed.out_reference,
        embed.out_errors,
        error_bound=embed.add_bound,
        costly=("out-strided",),
        unsupported=UNSUPPORTED,
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
        "add_position_embedding.positions",
        at.samples,
        reference.add_position_embedding,
        at.errors,
        differentiable=("x", "pos_embed"),
        error_bound=at.add_bound,
        costly=("x[2, 3, 4]-at[1, 3]", "x[6, 4]-at[6]", "x-scale"),
    ),
    Op(
        "add_position_embedding.positions_out",
        at.out_samples,
        at.out_reference,
        at.out_errors,
        error_bound=at.add_bound,
        costly=("out-strided",),
        unsupported=UNSUPPORTED,
    ),
    Op(
        "_add_positions",
        at.with_seed_samples,
        reference.add_positions,
        at.with_seed_errors,
        differentiable=("x", "pos_embed"),
        error_bound=at.add_bound,
        costly=("x[2, 3, 4]-at[2, 3]", "pos_embed-strided"),
    ),
    Op(
        "_sum_positions",
        at.sum_samples,
        reference.sum_positions,
        at.sum_errors,
        differentiable=("grad",),
        error_bound=at.sum_error_bound,
        costly=("x[2, 3, 4]-at[1, 3]", "x-strided"),
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

IN_PLACE = "returns an argument: the public op, which is composed, is functional where it is traced"


def softmax_ops(kind: str) -> tuple[Op, ...]:
    """Softmax with a bias from one source: returned, over the scores, with dropout; and its gradients."""
    name, table = f"{kind}_bias_softmax".strip("_"), softmax.TABLES[kind]
    first = next(iter(softmax.sources(kind, "cpu")))
    common = {"differentiable": ("scores", table, "mask"), "error_bound": softmax.bound_of(kind)}
    common["one_by_one"] = True
    slow = (first, "added", "causal-offset")

    def entry(name: str, samples, **options) -> Op:
        packet = getattr(reference, name.strip("_").partition(".")[0])
        return Op(name, samples, packet, softmax.errors_of(name, kind), **{**common, **options})

    every = (
        entry(name, softmax.samples_of(kind), costly=(*slow, "mask-keys", "scores-strided", "regions")),
        entry(f"{name}_", softmax.some_samples_of(kind), costly=slow),
        entry(f"{name}.dropout", softmax.dropout_samples_of(kind), costly=slow[:2]),
    )
    if kind in ("t5", "alibi"):
        return every
    traced = {"trace": IN_PLACE, "compile": IN_PLACE, "export": IN_PLACE}
    return (
        *every,
        entry(f"_{name}_", softmax.some_samples_of(kind), costly=slow, unsupported=traced),
        Op(
            f"_{name}_backward",
            softmax.backward_samples_of(kind),
            softmax.backward_reference_of(kind),
            softmax.backward_errors_of(kind),
            error_bound=softmax.backward_bound_of(kind),
            costly=(first, "grad-strided"),
        ),
    )


def attention_ops(kind: str) -> tuple[Op, ...]:
    """Attention with such a softmax; and where no gradient is needed."""
    name, table = f"{kind}_attention", softmax.TABLES[kind]
    public = Op(
        name,
        attention.samples_of(kind),
        getattr(reference, name),
        attention.errors_of(name, kind),
        differentiable=("q", "k", "v", table, "mask"),
        error_bound=attention.bound_of(kind),
        costly=attention.COSTLY,
        one_by_one=True,
        products=True,
    )
    if kind in ("t5", "alibi"):
        return (public,)
    inference = replace(
        public,
        name=f"_{name}",
        samples=attention.inference_samples_of(kind),
        errors=attention.errors_of(f"_{name}", kind),
        differentiable=(),
    )
    return public, inference


for _kind in softmax.TABLES:
    OPS += softmax_ops(_kind)
for _kind in ("window", "diagonal", "t5", "alibi"):
    OPS += attention_ops(_kind)
