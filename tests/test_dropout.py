"""Dropout: its rate, its scaling, its reproducibility, and one mask for forward and backward."""

import pytest
import torch
from op_types import DEVICES, DTYPES, values
from support import each, same_bits
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import posenc_ext
from posenc_ext import reference

DEVICE = each("device", DEVICES)


def dropped(x, p, seed=None, **options):
    if seed is not None:
        torch.manual_seed(seed)
    return posenc_ext.add_sinusoidal(x, dropout_p=p, training=True, **options)


@DEVICE
@each("p", [0.01, 0.1, 0.5, 0.9, 1 / 65536])
def test_rate(p, device):
    """The share of zeros of 2^22 draws is within five standard deviations of p."""
    x = torch.full((4, 1024, 1024), 10.0, device=device)
    rate = (dropped(x, p, seed=1) == 0).double().mean().item()
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(rate - round(p * 65536) / 65536) < 5 * deviation


def test_draws_look_independent():
    """Neighbours at many distances, lanes of one counter, and two seeds agree as often as chance has it."""
    x = torch.full((64, 128, 256), 10.0)
    keep = (dropped(x, 0.5, seed=2) != 0).double()
    other = (dropped(x, 0.5, seed=3) != 0).double()
    bound = 5 * 0.5 / x.numel() ** 0.5
    assert abs((keep == other).double().mean().item() - 0.5) < bound
    flat = keep.flatten()
    for step in (1, 2, 3, 4, 7, 8, 9, 16, 256, 32768):
        assert abs((flat[step:] == flat[:-step]).double().mean().item() - 0.5) < 1.5 * bound, step
    lanes = flat.view(-1, 8).mean(0)
    assert (lanes - 0.5).abs().max() < 5 * 0.5 / (x.numel() / 8) ** 0.5


@DEVICE
@each("shape", [(3, 5, 14), (6, 3, 352)], ids=["odd rows", "rows of lines"])
@each("dtype", DTYPES)
def test_kept_values_are_scaled_and_the_mask_is_philox(dtype, shape, device):
    """(x * x_scale + encoding) / (1 - p) rounded once where Philox keeps, +0 elsewhere."""
    x = values(shape, device, dtype)
    y = dropped(x, 0.3, seed=4, x_scale=1.5)
    torch.manual_seed(4)
    seed = reference.draw_seed(x.device)
    mask = reference.dropout_mask(x.shape, 0.3, seed)
    assert same_bits(y == 0, ~mask)
    assert same_bits(y[~mask], torch.zeros_like(y[~mask]))
    torch.manual_seed(4)
    expected = reference.add_sinusoidal(x, x_scale=1.5, dropout_p=0.3, training=True)
    torch.testing.assert_close(y, expected)


def test_expectation_is_kept():
    x = torch.full((8, 512, 512), 3.0)
    plain = posenc_ext.add_sinusoidal(x)
    assert abs(dropped(x, 0.4, seed=6).double().mean() / plain.double().mean() - 1) < 5e-3


@DEVICE
def test_manual_seed_reproduces(device):
    x = torch.randn(2, 64, 32, device=device)
    first, again, other = dropped(x, 0.5, seed=7), dropped(x, 0.5, seed=7), dropped(x, 0.5, seed=8)
    assert same_bits(first, again)
    assert not torch.equal(first == 0, other == 0)
    assert not torch.equal(first == 0, dropped(x, 0.5) == 0), "the next call draws another mask"


def test_one_draw_a_call():
    """A call with dropout takes one seed from the generator; one without takes none."""
    x = torch.ones(1, 2, 4)
    torch.manual_seed(9)
    reference.draw_seed(x.device)
    expected = torch.rand(3)
    torch.manual_seed(9)
    dropped(x, 0.5)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    posenc_ext.add_sinusoidal(x, dropout_p=0.5, training=False)
    posenc_ext.add_sinusoidal(x, dropout_p=0.0, training=True)
    assert torch.equal(torch.rand(3), expected)


@DEVICE
@each("dtype", DTYPES)
def test_gradient_uses_the_mask_of_forward(dtype, device):
    x = values((3, 50, 30), device, dtype).requires_grad_()
    y = dropped(x, 0.5, seed=10, x_scale=3.0)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.where(y == 0, 0.0, 6.0).to(dtype))


def embedded(x, p):
    return posenc_ext.add_position_embedding(x, x[0], dropout_p=p, training=True)


@each("op", [dropped, embedded])
def test_backward_saves_the_seed_alone(op):
    """Whatever the size: the mask is generated again."""
    packed = []
    with saved_tensors_hooks(lambda tensor: packed.append(tensor) or tensor, lambda tensor: tensor):
        op(torch.randn(1, 5000, 8).requires_grad_(), 0.5)
    assert [(tensor.dtype, tensor.numel()) for tensor in packed] == [(torch.int64, 1)]


@each("op", [dropped, embedded])
def test_gradients_of_any_order_use_the_mask_of_the_seed(op):
    x = values((3, 1029, 24), "cpu", torch.float64)
    torch.manual_seed(13)
    expected = op(x, 0.3)
    torch.manual_seed(13)
    y = op(x.requires_grad_(), 0.3)
    assert same_bits(y, expected)
    ones = torch.ones_like(y).requires_grad_()
    (gradient,) = torch.autograd.grad(y, x, ones, create_graph=True)
    kept = torch.where(y.detach() == 0, 0.0, torch.tensor(1 / 0.7, dtype=torch.float64))
    pos = kept.sum(0) if op is embedded else torch.zeros_like(kept[0])
    torch.testing.assert_close(gradient[0], kept[0] + pos)
    assert same_bits(gradient[1:], kept[1:])
    (back,) = torch.autograd.grad(gradient[1:].sum(), ones)
    assert same_bits(back[1:], kept[1:])


def test_the_mask_under_transforms():
    """Under torch.func.grad and vmap a given seed is one mask for all samples."""
    x = values((2, 2, 1029, 24), "cpu", torch.float64)

    def loss(x, seed):
        op = torch.ops.posenc_ext._add_sinusoidal
        return op(x, None, 0, 2.0, 10000.0, 0.0, "interleaved", "error", True, 0.5, seed).sum()

    seed = torch.tensor([3])
    kept = reference.dropout_mask(x.shape[1:], 0.5, seed) * torch.tensor(4.0, dtype=torch.float64)
    assert same_bits(torch.func.grad(loss)(x[0], seed), kept)
    batched = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None))(x, seed)
    assert same_bits(batched, kept.expand(2, -1, -1, -1))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap loops
@each("randomness", ["same", "different"])
def test_masks_of_samples_under_vmap(randomness):
    """A mask for all samples, or one for each, as vmap is told; and backward has that of forward."""
    xs = torch.rand(3, 2, 1029, 24) + 2  # no sum rounds to 0

    def value_and_gradient(x):
        y, adjoint = torch.func.vjp(lambda x: dropped(x, 0.5), x)
        return y, *adjoint(torch.ones_like(y))

    y, gradient = torch.func.vmap(value_and_gradient, randomness=randomness)(xs)
    assert torch.equal(y == 0, gradient == 0)
    masks = [sample == 0 for sample in y]
    assert [torch.equal(masks[0], mask) for mask in masks[1:]] == [randomness == "same"] * 2


def test_layouts_of_memory_do_not_change_the_mask():
    """The mask belongs to the place in the result, whatever the strides of x, the offsets and the threads."""
    x = torch.rand(6, 130, 64) + 2  # no sum rounds to 0
    expected = dropped(x, 0.5, seed=11) == 0
    transposed = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(dropped(transposed, 0.5, seed=11) == 0, expected)
    assert torch.equal(dropped(x, 0.5, seed=11, start=torch.arange(6)) == 0, expected)
    assert torch.equal(dropped(x, 0.5, seed=11, batch_first=False) == 0, expected)
    assert torch.equal(dropped(x.to(torch.bfloat16), 0.5, seed=11) == 0, expected)
    for threads in (1, 2, 3, 4, 8):
        torch.set_num_threads(threads)
        assert torch.equal(dropped(x, 0.5, seed=11) == 0, expected), threads


@each("use_reentrant", [False, True])
def test_checkpoint_reproduces_the_mask(use_reentrant):
    x = torch.randn(2, 64, 32, requires_grad=True)

    def block(x):
        return dropped(x, 0.5, x_scale=2.0).square()

    torch.manual_seed(12)
    expected = block(x)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.manual_seed(12)
    y = checkpoint(block, x, use_reentrant=use_reentrant)
    torch.rand(5)
    y.sum().backward()
    assert same_bits(y, expected)
    assert same_bits(x.grad, expected_gradient)


def test_probabilities_that_round_to_the_ends():
    """p below 2^-17 drops nothing; above 1 - 2^-17 everything, and no value becomes infinite or NaN by it."""
    x = torch.ones(2, 8, 16)
    assert (dropped(x, 2.0**-18) != 0).all()
    assert (dropped(x, 1 - 2.0**-18) == 0).all()
