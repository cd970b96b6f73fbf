"""A C++ program without Python trains a TorchScript module that Python saved, to the same bits."""

from pathlib import Path

import pytest
import torch
from cpp_build import build_with_package, installed_package, loaded_libraries, run
from torch import nn

import posenc_ext

STEPS, LEARNING_RATE = 3, 0.25


class TinyAttention(nn.Module):
    """One bias table, one positional encoding and one linear layer; forward gives the loss."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(3 * 5, 2))
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.ops.posenc_ext.add_sinusoidal(x, start=1, x_scale=2.0)
        bias = torch.ops.posenc_ext.window_bias(self.table, [2, 3])
        attention = torch.softmax(torch.matmul(y, y.transpose(1, 2))[:, None] + bias, dim=-1)
        return self.linear(torch.matmul(attention, y[:, None])).square().mean()


@pytest.fixture(scope="session")
def programs() -> dict[str, tuple[Path, Path]]:
    """By what it is linked with: the program, and the folder where it has to find the library."""
    wheel_library = Path(posenc_ext.__file__).parent / "libposenc_ext.so"
    folder = build_with_package("tests/cpp", f"-DWHEEL_LIBRARY={wheel_library}")
    return {
        "cmake package": (folder / "consumer", installed_package()),
        "wheel": (folder / "wheel_consumer", wheel_library.parent),
    }


def train_here(module_path, inputs) -> list[tuple[str, float]]:
    """What the C++ program does and prints, done in Python."""
    module = torch.jit.load(module_path)
    rows = []

    def note(name, value):
        rows.append((name, value.detach().double().sum().item()))

    for _ in range(STEPS):
        loss = module(inputs)
        loss.backward()
        note("loss", loss)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.sub_(parameter.grad * LEARNING_RATE)
                parameter.grad = None
    for name, parameter in module.named_parameters():
        note(name, parameter)
    note("sinusoidal_table", posenc_ext.sinusoidal_table(inputs.shape[1], inputs.shape[2]))
    note("add_sinusoidal", posenc_ext.add_sinusoidal(inputs, start=3))
    prefix = [inputs[:, :1]]
    note("add_position_embedding", posenc_ext.add_position_embedding(inputs, inputs[0], prefix, False))
    note("window_bias", posenc_ext.window_bias(module.table, [2, 3]))
    note_attention(note, module.table.detach(), inputs)
    return rows


def note_attention(note, table, inputs) -> None:
    scores = inputs.unsqueeze(1)[:, :, :, :6].expand(-1, 2, -1, -1).contiguous()
    mask = inputs[:, None, :1, :6] > 0
    note("window_bias_softmax", posenc_ext.window_bias_softmax(scores, table, [2, 3], mask=mask))
    options = {"scale": 0.5, "causal": True, "q_offset": 1}
    note("bias_softmax", posenc_ext.bias_softmax(scores, scores[0], **options))
    gathered = posenc_ext.gather_bias_softmax(scores, table, inputs[0, :, :6].gt(0).long(), **options)
    note("gather_bias_softmax", gathered)
    note("t5_bias_softmax", posenc_ext.t5_bias_softmax(scores, table[:8], False, 16, **options))
    slopes = table[0]
    note("alibi_bias_softmax", posenc_ext.alibi_bias_softmax(scores, slopes, dropout_p=1.0, training=True))
    note("window_attention", posenc_ext.window_attention(scores, scores, scores, table, [2, 3]))
    diagonals = posenc_ext.alibi_bias(slopes, 1, 11).squeeze(1)
    note("diagonal_attention", posenc_ext.diagonal_attention(scores, scores, scores, diagonals, **options))
    note("t5_attention", posenc_ext.t5_attention(scores, scores, scores, table[:8], max_distance=16))
    note("alibi_attention", posenc_ext.alibi_attention(scores, scores, scores, slopes, causal=True))
    note("diagonal_bias_softmax", posenc_ext.diagonal_bias_softmax(scores, diagonals, inplace=True))
    note("scores", scores)


@pytest.mark.parametrize("kind", ["cmake package", "wheel"])
def test_trains_to_the_bits_of_python(kind, programs, tmp_path):
    program, library_folder = programs[kind]
    module_path, inputs_path = tmp_path / "module.pt", tmp_path / "inputs.pt"
    torch.jit.script(TinyAttention()).save(module_path)
    inputs = torch.randn(4, 6, 8)
    torch.save(inputs, inputs_path)

    # One thread on both sides: then both add in the same order, and equality can be exact.
    torch.set_num_threads(1)
    expected = train_here(module_path, inputs)
    lines = run(program, module_path, inputs_path, STEPS, LEARNING_RATE).splitlines()

    assert lines[0] == f"version {posenc_ext.__version__}"
    got = [(name, float.fromhex(value)) for name, value in (line.split() for line in lines[1:])]
    assert got == expected
    losses = [value for name, value in got if name == "loss"]
    assert losses[0] > losses[1] > losses[2]

    loaded = loaded_libraries(program)
    assert not [name for name in loaded if "python" in name]
    assert library_folder.resolve() in loaded["libposenc_ext.so"].parents
