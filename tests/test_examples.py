"""The digits example: a short run of the whole of it, and its verdict."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import posenc_ext

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.append(str(EXAMPLES))


@pytest.fixture
def example():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return importlib.import_module("train_digits")


def outcome(example, **changes):
    good = {
        "name": "m",
        "file": "m",
        "model": torch.nn.Identity(),
        "accuracies": [96.0, 97.0],
        "difference": 1e-6,
        "reloads": True,
    }
    return example.Outcome(**{**good, **changes})


def test_quick_run_passes(example, tmp_path):
    package = str(Path(posenc_ext.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    run = subprocess.run(
        [sys.executable, EXAMPLES / "train_digits.py", "--quick", "--save", tmp_path],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("the same, bit for bit") == 3
    assert "PASSED" in run.stdout
    assert max(map(len, run.stdout.replace(str(tmp_path), "").splitlines())) <= 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"difference": 1.1e-3}, "m: losses differ by 1.1e-03"),
        ({"difference": float("nan")}, "m: losses differ by nan"),
        ({"accuracies": [94.9, 97.0]}, "m: test accuracy is 94.90 %"),
        ({"accuracies": [97.0, 94.9]}, "m: test accuracy is 94.90 %"),
        ({"reloads": False}, "m: the saved model's outputs are not the same"),
    ],
)
def test_verdict(example, changes, message):
    assert example.failures([outcome(example)], judge_accuracy=True) == []
    assert example.failures([outcome(example), outcome(example, **changes)], judge_accuracy=True) == [message]


def test_a_wrong_position_code_is_seen(example, monkeypatch, capsys):
    """The comparison must fail when the two sides do not compute the same."""

    class Shifted(posenc_ext.nn.SinusoidalPositionalEncoding):
        def forward(self, emb, step=None):
            return torch.ops.posenc_ext.add_sinusoidal(emb, start=1, x_scale=self.dim**0.5, batch_first=False)

    monkeypatch.setattr(posenc_ext.nn, "SinusoidalPositionalEncoding", Shifted)
    digits = example.Digits.load()
    result = example.compare("m", "m", example.RowTransformer, digits, example.Plan(1, 480, 1e-3))
    assert example.failures([result], judge_accuracy=False)[0].startswith("m: losses differ by")


def test_a_changed_model_is_seen_after_reloading(example, monkeypatch, tmp_path, capsys):
    digits = example.Digits.load()
    result = outcome(example, model=example.RowTransformer(posenc_ext.nn))
    saved = torch.jit.ScriptModule.save

    def save_changed(module, *arguments):
        with torch.no_grad():
            module.classify.bias.add_(1)
        saved(module, *arguments)

    monkeypatch.setattr(torch.jit.ScriptModule, "save", save_changed)
    assert not example.reloads(result, digits, tmp_path)
    assert "differ by" in capsys.readouterr().out


def test_clock_attributes_time_to_position_modules(example):
    model = example.RowTransformer(posenc_ext.nn)
    clock = importlib.import_module("position_clock").PositionClock(model, posenc_ext.nn)
    with torch.no_grad():
        model(torch.rand(4, 8, 8))
    assert clock.lap() == (0.0, 0.0)  # evaluation is not training
    model(torch.rand(4, 8, 8)).sum().backward()
    forward, backward = clock.lap()
    assert forward > 0
    assert backward > 0
    clock.remove()
    model(torch.rand(4, 8, 8)).sum().backward()
    assert clock.lap() == (0.0, 0.0)
