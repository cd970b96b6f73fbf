"""Support for torch.jit.trace, under which a size such as ``x.size(1)`` is a tensor of the traced graph."""

import functools
import inspect
import linecache
from collections.abc import Callable
from typing import Any, Optional, ParamSpec

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")

# Integer types of a schema: the tensor type that replaces each one, and how to convert it back to integers.
_TENSORS = {
    "int": ("Tensor", "int({0})"),
    "List[int]": ("List[Tensor]", "[int(n) for n in {0}]"),
    "Optional[List[int]]": ("Optional[List[Tensor]]", "[int(n) for n in {0}] if {0} is not None else None"),
}

_SCOPE: dict[str, Any] = {
    "torch": torch,
    "Tensor": Tensor,
    "Device": torch.device,
    "List": list,
    "Optional": Optional,
}
_SCOPE["__name__"] = __name__  # TorchScript qualifies a function by its module


@functools.cache
def _scripted_op(name: str, overload: str) -> Callable[..., Tensor]:
    """The op as a scripted function that takes integers as tensors: torch.ops would record constants."""
    parameters, values = [], []
    for argument in getattr(getattr(torch.ops.posenc_ext, name), overload)._schema.arguments:
        kind, value = _TENSORS.get(str(argument.type), (str(argument.type), "{0}"))
        parameters.append(f"{argument.name}: {kind}")
        values.append(("{0}=" if argument.kwarg_only else "") + value)
        values[-1] = values[-1].format(argument.name)
    source = f"def {name}({', '.join(parameters)}) -> Tensor:\n"
    source += f"    return torch.ops.posenc_ext.{name}({', '.join(values)})\n"
    file = f"<posenc_ext.{name}, traced>"
    # TorchScript reads the source from here.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    scope = dict(_SCOPE)
    exec(compile(source, file, "exec"), scope)
    return torch.jit.script(scope[name])


def _as_tensors(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_tensors(number) for number in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return torch.full((), value, dtype=torch.int64, device="cpu")
    return value


# TorchScript looks up here what a traceable function calls.
def check_inplace(op: str, dropout_p: float, training: bool) -> None:
    if training and dropout_p != 0.0:
        raise RuntimeError(f"posenc_ext::{op}: inplace must be False with dropout, got True")


def default_device(device: Optional[torch.device]) -> Optional[torch.device]:
    """Replaces None by torch's current default device, except in TorchScript, which ignores that device."""
    if device is None and not torch.jit.is_scripting():
        return torch.empty(0).device  # torch.compile does not support torch.get_default_device
    return device


def traceable(function: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
    """Makes torch.jit.trace record the sizes passed to an op, and accept a device, which it cannot record."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Arguments.args, **given: Arguments.kwargs) -> Tensor:
        if not torch.jit.is_tracing():
            return function(*args, **given)
        bound = signature.bind(*args, **given)
        bound.apply_defaults()
        values = {name: _as_tensors(value) for name, value in bound.arguments.items()}
        if "device" in values:
            values["device"] = default_device(values["device"])
        name, overload = function.__name__, "default"
        if "inplace" in values:
            if values.pop("inplace"):
                if values.pop("dropout_p") and values.pop("training"):
                    return function(*args, **given)  # which raises
                values.pop("training", None)
                name += "_"
            else:
                overload = "dropout"
        return _scripted_op(name, overload)(**values)

    return call
