"""What is registered: schemas frozen in schemas.txt, every op in the table, the same schemes everywhere.

After a change of schema that is meant: python tests/test_schemas.py > tests/schemas.txt
"""

import inspect
import re
from pathlib import Path

import markdown_block
import op_table
import pytest
import torch
from op_db import OPS
from support import each

from posenc_ext import _build, ops, reference

FILE = Path(__file__).with_name("schemas.txt")


def registered() -> list[str]:
    """Every schema of the namespace, sorted."""
    schemas = (str(schema) for schema in torch._C._jit_get_all_schemas())
    return sorted(schema for schema in schemas if schema.startswith("posenc_ext::"))


def test_schemas_are_frozen():
    assert registered() == FILE.read_text().splitlines()


def test_every_op_is_in_the_table():
    assert {schema.partition("(")[0].removeprefix("posenc_ext::") for schema in registered()} == {
        op.name for op in OPS
    }


def test_table_is_sound():
    for op in OPS:
        names = [sample.name for sample in op.samples("cpu", torch.float32)]
        arguments = [argument.name for argument in op.overload._schema.arguments]
        assert len(names) == len(set(names)), f"{op.name}: two samples of one name"
        assert set(op.costly) <= set(names), f"{op.name}: no sample for slow tests"
        assert op.costly, op.name
        assert set(op.differentiable) <= set(arguments), op.name
        assert set(op.unsupported) <= {"trace", "compile", "export", "cuda"}, op.name
        assert all(len(reason) > 20 for reason in op.unsupported.values()), (
            f"{op.name}: a flag without a reason"
        )
        for sample in op.samples("cpu", torch.float32):
            assert list(sample.inputs) == arguments, f"{op.name}: {sample.name}"


def has_kernel(op, key: str) -> bool:
    name = op.overload._schema.name + ("." + op.overload._schema.overload_name).rstrip(".")
    return torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, key)


@pytest.mark.parametrize("op", [op for op in OPS if op.supports("cuda")], ids=lambda op: op.name)
def test_kernel_is_registered_for_cuda(op):
    """On a build with CUDA; without a GPU that is as much as the running library can say."""
    if not _build.WITH_CUDA:
        pytest.skip("this build has no CUDA kernels: the CUDA environment of .ci/run tests one that has")
    assert has_kernel(op, "CUDA")


@each("key", ["CPU", "Meta", "AutogradCPU", "AutogradCUDA"])
def test_kernels_are_registered(key):
    assert [op.name for op in OPS if not has_kernel(op, key)] == []


def test_table_of_the_page_is_the_generated_one():
    """After a change: python tools/op_table.py --write"""
    assert markdown_block.parts(op_table.PAGE, op_table.COMMAND)[1] == op_table.markdown()


def test_schemes_are_the_same_everywhere():
    """A scheme is an op with an adjoint that knows the rows of its table, a wrapper, and a reference."""
    adjoint = re.compile(r"posenc_ext::_(\w+)_backward\(Tensor grad, SymInt num_rows")
    in_library = {match[1] for schema in registered() if (match := adjoint.match(schema))}
    public = {
        name: value for name, value in vars(ops).items() if inspect.isfunction(value) and name[0] != "_"
    }
    arguments = {name: [*inspect.signature(value).parameters] for name, value in public.items()}
    in_wrappers = {
        name for name, (first, *rest) in arguments.items() if first == "table" and "index" not in rest
    }
    assert in_library == in_wrappers == reference.SCHEMES
    assert all(callable(getattr(reference, name)) for name in reference.SCHEMES)


if __name__ == "__main__":
    print("\n".join(registered()))
