"""Error texts, word for word, on every device and on Meta."""

import pytest
import torch
from op_db import OPS
from op_types import DEVICES, Sample
from support import looped, requiring_gradients


def each_error(keep=lambda op: True):
    """A test of (op, error): per op, a loop over its errors on every device and on Meta."""

    def errors(given):
        for device in (*DEVICES, "meta"):
            for error in given["op"].errors(device):
                yield f"{device} {error.name}", {**given, "error": error}

    ops = [op for op in OPS if keep(op)]
    walked = pytest.mark.parametrize("op", ops, ids=lambda op: op.name)
    return lambda test: walked(looped(test, ("op", "error"), errors, outer=("op",)))


def text_of(call, inputs) -> str:
    with pytest.raises(RuntimeError) as caught:
        call(**inputs)
    return str(caught.value)


@each_error()
def test_text(op, error):
    assert text_of(op.overload, error.inputs) == error.text


@each_error(keep=lambda op: op.wrapper)
def test_wrapper_raises_the_same(op, error):
    assert text_of(op.wrapper, error.inputs) == error.text


@each_error(keep=lambda op: op.differentiable)
def test_same_text_under_autograd(op, error):
    """With an argument that requires gradients the call takes the Autograd kernel first."""
    inputs = requiring_gradients(op, Sample(error.name, error.inputs)).inputs
    assert text_of(op.overload, inputs) == error.text


def test_backward_through_wrong_upstream_shape_is_an_error():
    table = torch.ones(9, 2, requires_grad=True)
    y = torch.ops.posenc_ext.window_bias(table, [2, 2])
    with pytest.raises(RuntimeError, match="shape"):
        y.backward(torch.ones(2, 4, 3))
