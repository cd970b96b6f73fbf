"""PyTorch's own four checks of a custom op: schema, autograd registration, fake tensors, AOT dispatch."""

import pytest
import torch
from support import cases, costly


@pytest.mark.parametrize(("op", "sample"), cases(dtypes=(torch.float32, torch.bfloat16), keep=costly))
def test_opcheck(op, sample):
    inputs = dict(sample.inputs)
    for name in op.differentiable:
        if inputs[name].is_floating_point():
            inputs[name] = inputs[name].detach().requires_grad_()
    names = [argument.name for argument in op.overload._schema.arguments if not argument.kwarg_only]
    torch.library.opcheck(op.overload, tuple(inputs.pop(name) for name in names), inputs)
