"""Machineries that change dtype, device or the way a module is differentiated."""

import torch
from machinery import Row, SoftmaxOfSharedDiagonals, compare, cotangent, machinery, no_parameters, run
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from posenc_ext.nn import TimestepEmbedding

DTYPES = "Dtypes and devices"
ITS_OWN_DTYPE = {
    "has a fixed result dtype, like the replaced module": lambda row: isinstance(
        row.build(), TimestepEmbedding
    ),
    "diagonals are in float32 or wider": lambda row: row.host is SoftmaxOfSharedDiagonals,
}


def module_output(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the module itself returned, before the model adds to it."""
    outputs = []
    with model.module.register_forward_hook(lambda module, inputs, output: outputs.append(output)):
        run(model, x)
    return outputs[-1]


def check_dtype(row: Row, model: nn.Module, dtype: torch.dtype, expected: dict, tolerance: float) -> None:
    x = row.x() if row.tokens else row.x(dtype=dtype)
    result = module_output(model, x)
    assert result.dtype is dtype, f"the result is {result.dtype}"
    actual = {name: value.to(expected[name].dtype) for name, value in run(model, x).items()}
    expected = {k: v for k, v in expected.items() if not k.startswith("gradient")} | {
        k: v for k, v in expected.items() if k == "gradient of x"
    }
    compare(actual, expected, rtol=tolerance, atol=tolerance)


@machinery(DTYPES, "`.half()`, `.bfloat16()`, `.to(dtype)`, `.double()`", ITS_OWN_DTYPE)
def cast(row: Row) -> None:
    for dtype, tolerance in ((torch.float16, 2**-7), (torch.bfloat16, 2**-4), (torch.float64, 1e-5)):
        for way in (lambda m, d: m.to(d), lambda m, d: m.to("cpu", d), lambda m, d: m.type(d)):
            expected = run(row.model().eval(), row.x())
            check_dtype(row, way(row.model().eval(), dtype), dtype, expected, tolerance)


@machinery(DTYPES, "`torch.set_default_dtype`", ITS_OWN_DTYPE)
def default_dtype(row: Row) -> None:
    expected = run(row.model().double().eval(), row.x(dtype=torch.float64))
    torch.set_default_dtype(torch.float64)
    try:
        model = row.model().eval()
        assert all(p.dtype is torch.float64 for p in model.parameters())
        model.load_state_dict({k: v.double() for k, v in float32_state(row).items()})
        check_dtype(row, model, torch.float64, expected, 1e-12)
    finally:
        torch.set_default_dtype(torch.float32)


def float32_state(row: Row) -> dict[str, torch.Tensor]:
    torch.set_default_dtype(torch.float32)
    state = row.model().state_dict()
    torch.set_default_dtype(torch.float64)
    return state


@machinery(DTYPES, '`.to("meta")`, `to_empty`, `load_state_dict`')
def meta_and_back(row: Row) -> None:
    model, source = row.model().eval().to("meta"), row.model().eval()
    output = model(row.x().to("meta"))
    assert output.is_meta
    assert output.shape == source(row.x()).shape
    model.to_empty(device="cpu")
    model.load_state_dict(source.state_dict())
    compare(run(model, row.x()), run(source, row.x()))


@machinery(DTYPES, '`torch.set_default_device("meta")`, inputs on the CPU')
def default_device(row: Row) -> None:
    model = row.model().train()
    x, expected = row.x(), run(model, row.x())
    with torch.device("meta"):
        torch.manual_seed(2)
        output = model(x)
    assert output.device.type == "cpu"
    compare({"output": output}, {"output": expected["output"]})


@machinery(DTYPES, "autocast to bfloat16")
def autocast(row: Row) -> None:
    expected = run(row.model().eval(), row.x())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = run(row.model().eval(), row.x())
    actual = {name: value.to(expected[name].dtype) for name, value in actual.items()}
    compare(actual, {"output": expected["output"]}, rtol=2**-5, atol=2**-5)
    assert actual.keys() == expected.keys()


DIFFERENTIATION = "Functional and checkpointed differentiation"


@machinery(DIFFERENTIATION, "finite differences in float64: gradients of x and of every trainable parameter")
def finite_differences(row: Row) -> None:
    """What all other columns compare with is right itself."""
    model = row.model().double().eval()
    trainable = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    x = row.x() if row.tokens else row.x(dtype=torch.float64)

    def function(*leaves: torch.Tensor) -> torch.Tensor:
        given = x if row.tokens else leaves[-1]
        output = functional_call(model, dict(zip(trainable, leaves)), given)
        return output.double() * cotangent(output)

    leaves = [*trainable.values(), *([] if row.tokens else [x])]
    # Element by element: the fast mode's tolerance grows with the sizes.
    assert gradcheck(function, [leaf.requires_grad_() for leaf in leaves], eps=1e-3, atol=1e-3)
    values = run(model, x)
    missing = [name for name in trainable if f"gradient of {name}" not in values]
    assert not missing, f"no gradient of {missing}"


@machinery(DIFFERENTIATION, "activation checkpointing, with dropout")
def checkpointed(row: Row) -> None:
    model = row.model().train()
    expected = run(model, row.x())
    for reentrant in (False, True):
        if reentrant and row.tokens:
            continue  # the reentrant kind needs an input with a gradient

        class Checkpointed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = model

            def forward(self, x: torch.Tensor, reentrant: bool = reentrant) -> torch.Tensor:
                return checkpoint(self.inner, x, use_reentrant=reentrant)

        actual = {k.replace("inner.", ""): v for k, v in run(Checkpointed(), row.x()).items()}
        compare(actual, expected)


@machinery(DIFFERENTIATION, "`torch.func.grad` of `functional_call`")
def functional_gradient(row: Row) -> None:
    model = row.model().eval()
    expected = run(model, row.x())
    x, weights = row.x(), cotangent(expected["output"])
    parameters = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
    gradients = grad(lambda p: (functional_call(model, p, x) * weights).sum())(parameters)
    wanted = {k: v for k, v in expected.items() if k not in ("output", "gradient of x")}
    compare({f"gradient of {k}": v for k, v in gradients.items()}, wanted, rtol=1e-6, atol=1e-6)


@machinery(DIFFERENTIATION, "`vmap` over `stack_module_state`", {"has no parameters": no_parameters})
def ensemble(row: Row) -> None:
    models = [row.model().eval() for _ in range(3)]
    with torch.no_grad():
        for i, model in enumerate(models):
            for p in model.parameters():
                p.add_(i / 8)
    parameters, buffers = stack_module_state(models)
    x = row.x()
    output = vmap(lambda p, b: functional_call(models[0], (p, b), x))(parameters, buffers)
    expected = torch.stack([model(x) for model in models])
    compare({"output": output}, {"output": expected}, rtol=1e-6, atol=1e-6)
