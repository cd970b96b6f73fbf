"""PyTorch's own four checks of a custom op."""

import torch
from support import costly, requiring_gradients, walk


def checks(op) -> list[str]:
    every = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    return every if op.supports("compile") else every[:3]


@walk(dtypes=(torch.float32, torch.bfloat16), keep=costly)
def test_opcheck(op, sample):
    inputs = dict(op.separate(requiring_gradients(op, sample).inputs))
    names = [argument.name for argument in op.overload._schema.arguments if not argument.kwarg_only]
    positional = tuple(inputs.pop(name) for name in names)
    torch.library.opcheck(op.overload, positional, inputs, test_utils=checks(op))
