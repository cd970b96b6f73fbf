"""What add_position_embedding promises beyond its values: bits, promotion, memory, what backward computes."""

import torch
from op_types import DTYPES, values
from support import Calls, each, same_bits

import posenc_ext
from posenc_ext import reference


def tensors(batch=3, tokens=5, dim=8, dtype=torch.float32, own=False):
    """x, pos_embed and two prefix tokens that require gradients."""
    shapes = [(batch, tokens, dim), (1, tokens + 3, dim), (1, 1, dim), (batch if own else 1, 2, dim)]
    return [values(shape, "cpu", dtype, seed=i).requires_grad_() for i, shape in enumerate(shapes)]


@each(("batch", "dim"), [(3, 40), (9, 64)], ids=["odd rows", "rows of lines"])
@each("dtype", DTYPES)
def test_bits_of_cat_and_add(dtype, batch, dim):
    """One rounding is what eager does, too, where nothing is scaled or dropped."""
    x, pos, cls, registers = (t.detach() for t in tensors(batch, 200, dim, dtype, own=True))
    prefix = [cls.expand(batch, -1, -1), registers]
    actual = posenc_ext.add_position_embedding(x, pos, [cls, registers])
    assert same_bits(actual, torch.cat([*prefix, x], 1) + pos)
    actual = posenc_ext.add_position_embedding(x, pos[0, 3:], [cls, registers], embed_prefix=False)
    assert same_bits(actual, torch.cat([*prefix, x + pos[:, 3:]], 1))


@each("embed_prefix", [True, False])
def test_dtypes_are_promoted_as_cat_and_add_do(embed_prefix):
    for kinds in torch.cartesian_prod(*[torch.arange(4)] * 3).tolist():
        x, pos, cls, _ = tensors()
        pos = pos[:, : 6 if embed_prefix else 5]
        x, pos, cls = (t.to(DTYPES[kind]) for t, kind in zip((x, pos, cls), kinds, strict=True))
        actual = posenc_ext.add_position_embedding(x, pos, [cls], embed_prefix=embed_prefix)
        prefix = cls.expand(3, -1, -1)
        expected = torch.cat([prefix, x], 1) + pos if embed_prefix else torch.cat([prefix, x + pos], 1)
        assert actual.dtype is expected.dtype
        high = reference.add_position_embedding(x, pos, [cls], embed_prefix=embed_prefix)
        assert same_bits(actual, high)


def test_autocast_training_step():
    """Patches in bfloat16 from autocast, float32 parameters: gradients in each one's own dtype."""
    _, pos, cls, registers = tensors()
    patches, layer = torch.randn(3, 5, 12), torch.nn.Linear(12, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = layer(patches)
        x.retain_grad()
        y = posenc_ext.add_position_embedding(x, pos, [cls, registers])
    assert (x.dtype, y.dtype) == (torch.bfloat16, torch.float32)
    y.square().sum().backward()
    for tensor in (x, pos, cls, registers, layer.weight):
        assert (tensor.grad.dtype, tensor.grad.shape) == (tensor.dtype, tensor.shape)
        assert tensor.grad.abs().sum() > 0


@each("batch_first", [True, False])
def test_an_image_is_read_where_it_lies(batch_first):
    """No op runs but ours: the view of the image is not made contiguous, the class token not expanded."""
    image = torch.randn(2, 8, 5, 7).flatten(2)
    x = image.transpose(1, 2) if batch_first else image.permute(2, 0, 1)
    cls, pos = torch.randn(1, 1, 8), torch.randn(36, 8)
    with Calls() as calls:
        y = posenc_ext.add_position_embedding(x, pos, [cls], batch_first=batch_first)
    assert calls.names == ["posenc_ext._add_position_embedding"]
    expected = posenc_ext.add_position_embedding(x.contiguous(), pos, [cls], batch_first=batch_first)
    assert same_bits(y, expected)


def test_backward_computes_what_is_asked_for():
    x, pos, cls, registers = tensors()
    y = posenc_ext.add_position_embedding(x, pos, [cls, registers])
    upstream = torch.randn_like(y)
    for wanted, sums in (([x], 0), ([pos], 1), ([cls], 1), ([x, pos, registers], 2)):
        with Calls() as calls:
            torch.autograd.grad(y, wanted, upstream, retain_graph=True)
        assert calls.names.count("posenc_ext._sum_batch") == sums
        assert "posenc_ext._scale_dropout" not in calls.names
    y = posenc_ext.add_position_embedding(x.detach(), pos, [cls.detach(), registers.detach()])
    with Calls() as calls:
        y.sum().backward()
    assert calls.names.count("posenc_ext._sum_batch") == 1


def test_gradient_of_x_is_a_view():
    """Of the upstream gradient; those of the parameters have memory of their own, also for a batch of one."""
    for batch in (1, 3):
        inputs = tensors(batch)
        y = posenc_ext.add_position_embedding(*inputs[:2], inputs[2:])
        upstream = torch.randn_like(y)
        x_grad, pos_grad, cls_grad, _ = torch.autograd.grad(y, inputs, upstream)
        assert x_grad.data_ptr() == upstream[:, 3:].data_ptr()
        assert x_grad.stride() == upstream[:, 3:].stride()
        memory = upstream.untyped_storage().data_ptr()
        assert pos_grad.untyped_storage().data_ptr() != memory
        assert (cls_grad.untyped_storage().data_ptr() == memory) is (batch == 1)  # one slice, one owner


def test_nothing_is_saved():
    """Operands may change between forward and backward."""
    packed = []
    inputs = tensors()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        x, pos, *prefix = (t * 1.0 for t in inputs)
        packed.clear()
        y = posenc_ext.add_position_embedding(x, pos, prefix, x_scale=2.0)
        assert packed == []
    for tensor in (x, pos, *prefix):
        tensor.zero_()
    y.sum().backward()
    assert [t.grad.unique().tolist() for t in inputs] == [[2.0], [3.0], [3.0], [3.0]]


@each("dtype", [torch.float16, torch.bfloat16])
def test_sums_over_large_batches_are_accurate(dtype):
    """One rounding of a float32 sum; a sum in the half type would be off by far more than an ulp."""
    pos = torch.zeros(2, 16, dtype=dtype, requires_grad=True)
    x = torch.zeros(2000, 2, 16, dtype=dtype)
    upstream = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (actual,) = torch.autograd.grad(posenc_ext.add_position_embedding(x, pos), pos, upstream)
    expected = upstream.double().sum(0)
    assert ((actual.double() / expected - 1).abs() < torch.finfo(dtype).eps * 0.51).all()


@each("batch_first", [True, False])
def test_dropout_mask_is_that_of_the_result(batch_first):
    """Philox at the place in the contiguous result, also where that is read as squares, and in backward."""
    image = torch.rand(2, 70, 7, 11).flatten(2) + 2  # no sum is 0
    x = image.transpose(1, 2) if batch_first else image.permute(2, 0, 1)
    x.requires_grad_()
    pos, cls = torch.rand(78, 70), torch.ones(1, 1, 70)
    torch.manual_seed(3)
    y = posenc_ext.add_position_embedding(
        x, pos, [cls], batch_first=batch_first, dropout_p=0.3, training=True, x_scale=2.0
    )
    torch.manual_seed(3)
    seed = reference.draw_seed(x.device)
    mask = reference.dropout_mask(y.shape, 0.3, seed)
    assert torch.equal(y != 0, mask)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    kept = mask[:, 1:] if batch_first else mask[1:]
    torch.testing.assert_close(gradient, torch.where(kept, 2 / 0.7, 0.0))


def test_one_draw_a_call():
    x, pos, *prefix = (t.detach() for t in tensors())
    torch.manual_seed(9)
    reference.draw_seed(x.device)
    expected = torch.rand(3)
    torch.manual_seed(9)
    posenc_ext.add_position_embedding(x, pos, prefix, dropout_p=0.5, training=True)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    posenc_ext.add_position_embedding(x, pos, prefix, dropout_p=0.5)
    posenc_ext.add_position_embedding(x, pos, prefix, training=True)
    assert torch.equal(torch.rand(3), expected)


@each("dim", [10, 64])
@each("dtype", DTYPES)
@each("padding", range(1, 9))
def test_no_read_outside_of_views(dtype, padding, dim):
    """Operands that begin and end at any byte offset, between NaNs, give results without NaN."""

    def between(*shape):
        memory = torch.full((2 * padding + torch.Size(shape).numel(),), float("nan"), dtype=dtype)
        return memory[padding:-padding].view(shape).fill_(0.5)

    for x in (between(2, 6, dim), between(5, 6, dim), between(2, dim, 6).transpose(1, 2)):
        prefix = [between(1, 1, dim), between(x.size(0), 2, dim)]
        y = posenc_ext.add_position_embedding(x, between(9, dim), prefix)
        assert (y == 1).all()
    for batch in (1, 5):
        grad = between(batch, 3, dim)
        assert (torch.ops.posenc_ext._sum_batch(grad, True) == 0.5 * batch).all()


@each("batch_first", [True, False])
@each("options", [{}, {"x_scale": 1.7}, {"dropout_p": 0.3, "training": True}])
@each("dtype", DTYPES)
def test_rows_of_lines_are_those_of_single_elements(dtype, options, batch_first):
    x, pos = values((9, 7, 192), "cpu", dtype), values((9, 192), "cpu", dtype, seed=1)
    prefix = [values((1, 2, 192) if batch_first else (2, 1, 192), "cpu", dtype, seed=2)]
    results = []
    for form in (x, torch.stack([x, x], -1)[..., 0]):
        torch.manual_seed(1)
        tokens = pos if batch_first else pos.repeat(2, 1)[:11]
        results.append(
            posenc_ext.add_position_embedding(form, tokens, prefix, batch_first=batch_first, **options)
        )
    assert same_bits(*results)


def test_prefix_tokens_may_be_left_out():
    x, pos, *_ = (t.detach() for t in tensors())
    expected = x + pos[:, :5]
    assert same_bits(posenc_ext.add_position_embedding(x, pos[:, :5]), expected)
    assert same_bits(reference.add_position_embedding(x, pos[:, :5]), expected)
    assert same_bits(torch.ops.posenc_ext.add_position_embedding(x, pos[0, :5]), expected)

    def scripted(x: torch.Tensor, pos: torch.Tensor):
        return posenc_ext.add_position_embedding(x, pos)

    assert same_bits(torch.jit.script(scripted)(x, pos[:, :5]), expected)
