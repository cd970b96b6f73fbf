"""The C++ programs of examples/cpp: models that Python saved run and train without Python, with its bits."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from cpp_build import ROOT, build_with_package, loaded_libraries, run
from support import OPS

import posenc_ext

COMPOSITE = "CompositeImplicitAutograd"
PACKAGE = Path(posenc_ext.__file__).resolve().parent
dtype_is_lost = pytest.mark.xfail(
    torch.__version__ < "2.12",
    reason="AOTInductor gives ops another dtype than the exported one: pytorch/pytorch#169157",
    strict=True,
)


@pytest.fixture(scope="module")
def programs() -> Path:
    return build_with_package("examples/cpp")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with the models. encoder.pt2 is left out: it takes as long as ops.pt2 and has fewer ops."""
    folder = tmp_path_factory.mktemp("models")
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    script = ROOT / "examples" / "cpp" / "make_models.py"
    run(*("env", f"PYTHONPATH={path}", sys.executable), script, folder, "ops.pt2", "encoder.pt")
    return folder


def arguments(models: Path, name: str) -> tuple[Path, Path]:
    return models / name, models / f"{name}.tensors"


@dtype_is_lost
def test_a_package_of_every_op_has_the_bits_of_python(programs, models):
    *outputs, time = run(programs / "run_model", *arguments(models, "ops.pt2")).splitlines()
    assert len(outputs) > 40
    assert [line for line in outputs if not line.endswith(" the same bits")] == []
    assert time.endswith("ms per run on one thread")


def test_the_package_calls_every_op_that_has_kernels(models):
    """The other ops are made of these, or write into an argument, which exported programs do not do."""
    with zipfile.ZipFile(models / "ops.pt2") as package:
        records = [package.read(name) for name in package.namelist() if name.endswith(".wrapper.json")]
    called = {node["node"]["target"] for record in records for node in json.loads(record)["nodes"]}
    names = {op.overload.name() for op in OPS if op.supports("export")}
    names -= {name for name in names if torch._C._dispatch_has_kernel_for_dispatch_key(name, COMPOSITE)}
    assert names <= called, f"not called: {sorted(names - called)}"


def test_a_scripted_module_trains_to_the_bits_of_python(programs, models):
    version, *lines = run(programs / "train_scripted", *arguments(models, "encoder.pt")).splitlines()
    assert version == f"posenc_ext {posenc_ext.__version__}"
    assert [line for line in lines if not line.endswith(" the same bits")] == []
    losses = [float(line.split()[3].rstrip(",")) for line in lines if line.startswith("step ")]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 2
    assert sum("gradient of " in line for line in lines) == 9


def test_programs_need_no_python(programs):
    for name, needs_library in (("run_model", True), ("train_scripted", True), ("run_model_torch", False)):
        loaded = loaded_libraries(programs / name)
        assert not [library for library in loaded if "python" in library]
        assert ("libposenc_ext.so" in loaded) == needs_library


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encoder.pt", "Unknown builtin op: posenc_ext::add_sinusoidal."),
        pytest.param("ops.pt2", "Could not find schema for posenc_ext::", marks=dtype_is_lost),
    ],
)
def test_a_program_without_the_library_runs_a_model_once_it_is_preloaded(name, message, programs, models):
    """As Triton Inference Server does; docs/serve.md shows the message."""
    command = [programs / "run_model_torch", *arguments(models, name)]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert message in failed.stderr
    assert message in (ROOT / "docs" / "serve.md").read_text()
    output = run("env", f"LD_PRELOAD={PACKAGE / 'libposenc_ext.so'}", *command)
    assert " the same bits\n" in output
