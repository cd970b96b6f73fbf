"""Autocast: the ops keep the dtypes they are given, and gradients flow through a mixed model."""

import torch
from support import costly, each, same, walk

import posenc_ext


@each("lower", [torch.bfloat16, torch.float16])
@walk(dtypes=(torch.float32,), keep=costly)
def test_autocast_changes_nothing(op, sample, lower):
    expected = op(sample)
    with torch.autocast("cpu", dtype=lower):
        actual = op(sample)
    assert same(op, actual, expected)


def test_autocast_training_step():
    """Attention in bfloat16 with a float32 bias table: the table's gradient is float32."""
    layer = torch.nn.Linear(8, 8)
    table = torch.nn.Parameter(torch.randn(9, 1))
    x = torch.randn(2, 4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(posenc_ext.add_sinusoidal(x))
        assert posenc_ext.add_sinusoidal(y).dtype is torch.bfloat16
        scores = y @ y.transpose(1, 2)
        assert scores.dtype is torch.bfloat16
        bias = posenc_ext.window_bias(table, [2, 2])
        assert bias.dtype is torch.float32
        loss = (scores + bias).softmax(-1).square().sum()
    loss.backward()
    assert table.grad.dtype is torch.float32
    assert table.grad.abs().sum() > 0
    assert layer.weight.grad.abs().sum() > 0
