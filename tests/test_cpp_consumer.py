"""A C++ program without Python trains a TorchScript module that Python saved, to the same bits."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import posenc_ext
from posenc_ext import _build

ROOT = Path(__file__).resolve().parents[1]
# Kept between runs: only what changed is compiled again.
BUILD = ROOT / "build" / f"cmake-torch{torch.__version__}-{'cuda' if _build.WITH_CUDA else 'cpu'}"
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


def run(*command) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(done.args)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def configure_arguments() -> list[str]:
    # Unoptimised code has the same bits, and compiles in half the time.
    arguments = [
        "-DCMAKE_BUILD_TYPE=None",
        "-DCMAKE_CXX_FLAGS=-O0",
        *(["-GNinja"] if shutil.which("ninja") else []),
    ]
    if torch.version.cuda is None:
        return arguments
    search = os.pathsep.join([os.path.join(os.environ.get("CUDA_HOME", ""), "bin"), os.environ["PATH"]])
    nvcc = shutil.which("nvcc", path=search)
    if nvcc is None:
        pytest.skip("find_package(Torch) of a torch with CUDA needs the CUDA toolkit, and there is no nvcc")
    # nvcc on PATH may be a wrapper script: the real one tells where its toolkit is.
    dry_run = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True, check=True
    )
    home = Path(re.search(r"^#\$ TOP=(.*)$", dry_run.stderr, re.MULTILINE)[1]).resolve()
    return [
        *arguments,
        *(f"-DCUDA_TOOLKIT_ROOT_DIR={home}", f"-DCUDAToolkit_ROOT={home}"),
        *(f"-DCMAKE_CUDA_COMPILER={home}/bin/nvcc", "-DTORCH_CUDA_ARCH_LIST=9.0"),
    ]


@pytest.fixture(scope="session")
def programs() -> dict[str, tuple[Path, Path]]:
    """By what it is linked with: the program, and the folder where it has to find the library."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert cmake, "no cmake: pip install cmake"
    torch_prefix, prefix = torch.utils.cmake_prefix_path, BUILD / "prefix"
    wheel_library = Path(posenc_ext.__file__).parent / "libposenc_ext.so"
    run(
        *(cmake, "-S", ROOT, "-B", BUILD / "library", f"-DCMAKE_PREFIX_PATH={torch_prefix}"),
        *(f"-DPOSENC_WITH_CUDA={'ON' if _build.WITH_CUDA else 'OFF'}", *configure_arguments()),
    )
    run(cmake, "--build", BUILD / "library", "--parallel", "2")
    run(cmake, "--install", BUILD / "library", "--prefix", prefix)
    run(
        *(cmake, "-S", ROOT / "tests" / "cpp", "-B", BUILD / "program", *configure_arguments()),
        *(f"-DCMAKE_PREFIX_PATH={prefix};{torch_prefix}", f"-DWHEEL_LIBRARY={wheel_library}"),
    )
    run(cmake, "--build", BUILD / "program", "--parallel", "2")
    return {
        "cmake package": (BUILD / "program" / "consumer", prefix),
        "wheel": (BUILD / "program" / "wheel_consumer", wheel_library.parent),
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

    loaded = [line.split() for line in run("ldd", program).splitlines()]
    assert not [words[0] for words in loaded if "python" in words[0]]
    origin = [Path(words[2]).resolve().parent for words in loaded if words[0] == "libposenc_ext.so"]
    assert origin, "the program does not need libposenc_ext.so"
    assert library_folder.resolve() in [origin[0], *origin[0].parents]
