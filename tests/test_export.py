"""torch.export with dynamic sizes, and AOTInductor on the CPU."""

import io

import pytest
import torch
from everything import Everything, inputs
from support import costly, function_of, same, same_bits, walk

SIZES = [(2, 4, 6), (5, 9, 6)]


def exported(module):
    batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=3, max=512)
    shapes = {"x": {0: batch, 1: length}, "timesteps": {0: batch}, "step": None}
    with torch.no_grad():
        return torch.export.export(module, (*plain_inputs(), 3), dynamic_shapes=shapes)


def plain_inputs(*sizes):
    return tuple(tensor.detach() for tensor in inputs(*sizes))


def test_dynamic_sizes():
    module = Everything()
    program = exported(module)
    targets = {str(node.target) for node in program.graph.nodes}
    assert any("posenc_ext.window_bias" in target for target in targets)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer)
    for sizes in SIZES:
        expected = module(*plain_inputs(*sizes), 3)
        assert same_bits(program.module()(*plain_inputs(*sizes), 3), expected)
        assert same_bits(loaded.module()(*plain_inputs(*sizes), 3), expected)


@walk("export", dtypes=(torch.bfloat16,), keep=costly)
def test_every_op(op, sample):
    names = tuple(sample.tensors())
    function = function_of(op, sample, names)

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return function(*tensors)

    tensors = tuple(sample.tensors().values())
    program = torch.export.export(Module(), tensors)
    assert same(op, program.module()(*tensors), function(*tensors))


@pytest.mark.xfail(
    torch.__version__ < "2.12",
    reason="AOTInductor gives ops another dtype than the exported one: pytorch/pytorch#169157",
    strict=True,
)
def test_aot_inductor(tmp_path):
    """Compiled ahead of time to a package that runs without Python's dispatcher."""
    module = Everything()
    path = torch._inductor.aoti_compile_and_package(
        exported(module), package_path=str(tmp_path / "model.pt2")
    )
    package = torch._inductor.aoti_load_package(path)
    for sizes in SIZES:
        with torch.no_grad():
            expected = module(*plain_inputs(*sizes), 3)
        torch.testing.assert_close(package(*plain_inputs(*sizes), 3), expected)
