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
def example(monkeypatch):
    """The module train_digits; processes it starts find the package under test, installed or not."""
    package = str(Path(posenc_ext.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", path)
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    torch.set_num_threads(1)  # the models are small
    return importlib.import_module("train_digits")


def outcome(example, **changes):
    good = {
        "name": "m",
        "file": "m",
        "model": torch.nn.Identity(),
        "accuracies": [96.0, 97.0],
        "difference": 1e-6,
    }
    return example.Outcome(**{**good, **changes})


def test_quick_run_passes(example, tmp_path):
    run = subprocess.run(
        [sys.executable, EXAMPLES / "train_digits.py", "--quick", "--save", tmp_path],
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
    ],
)
def test_verdict(example, changes, message):
    assert example.failures([outcome(example)], reloaded=True, judge_accuracy=True) == []
    outcomes = [outcome(example), outcome(example, **changes)]
    assert example.failures(outcomes, reloaded=True, judge_accuracy=True) == [message]


def test_a_wrong_position_code_is_seen(example, monkeypatch):
    """The comparison fails when the two sides do not compute the same."""

    class Shifted(posenc_ext.nn.SinusoidalPositionalEncoding):
        def forward(self, emb, step=None):
            return super().forward(emb, 1)

    monkeypatch.setattr(posenc_ext.nn, "SinusoidalPositionalEncoding", Shifted)
    plan = example.Plan(epochs=1, batch=48, rate=2e-3)
    result = example.compare("m", "m", example.RowTransformer, example.Digits.load(), plan)
    assert result.difference > example.MAX_DIFFERENCE


class Unfaithful(torch.nn.Module):
    """Computes one thing in Python and another as TorchScript."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            return images.flatten(1) + 1
        return images.flatten(1)


def test_a_saved_model_with_other_outputs_is_seen(example, tmp_path, capsys):
    digits = example.Digits.load()
    outcomes = [outcome(example, file="same"), outcome(example, file="other", model=Unfaithful())]
    assert not example.reload(outcomes, digits, tmp_path)
    printed = capsys.readouterr().out
    assert "same.pt: outputs for 360 images: the same, bit for bit" in printed
    assert "other.pt: outputs for 360 images: differ by 1.0e+00" in printed
    assert example.reload(outcomes[:1], digits, tmp_path)
    assert example.failures([], reloaded=False, judge_accuracy=True) == [
        "the outputs of a saved model are not the same"
    ]


def test_accuracy_example_shows_what_it_says(example):
    accuracy = importlib.import_module("accuracy")
    plain, ours = accuracy.sinusoid_errors(1_000_000, 512)
    assert plain > 1e-3
    assert ours <= 2**-25  # half an ulp below 1
    plain, ours = accuracy.bias_gradient_errors((32, 32), 16)
    assert plain > 0.1
    assert ours <= 2**-8


def printed(name, capsys):
    """What the example of this name prints."""
    importlib.import_module(name).main()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    return lines


def test_classic_encoder_example(capsys):
    encoder = importlib.import_module("classic_encoder")
    plain, ours = encoder.far_errors(1_000_000)
    assert plain > 1e-3
    assert ours <= 2**-25  # half an ulp below 1
    plain, ours = encoder.half_rows(4096)
    assert plain < 1000
    assert ours == 4096
    *_, padded, stepwise = printed("classic_encoder", capsys)
    assert padded.endswith("each as if it were alone: True")
    assert stepwise.endswith("as in one piece: True")


def test_vit_example(capsys):
    small, large, same, loaded, resampled, trained = printed("vit_two_resolutions", capsys)
    assert "198 tokens" in small
    assert "322 tokens" in large
    assert same.endswith("the same bits: True")
    assert loaded.endswith("pos_embed (1, 402, 96)")
    assert resampled.endswith("the same logits: True")
    assert trained.endswith("gradients for cls_token, dist_token, pos_embed")


def test_clip_pooling_example(capsys):
    own, *others, loaded = printed("clip_pooling", capsys)
    assert float(own.split()[-1]) < 1e-6  # 50 terms of 512 products of order 1, in another order
    assert [line.split(":")[0] for line in others] == ["9 x 9", "7 x 12", "4 x 4"]
    assert all(line.endswith("(8, 256), as TorchScript the same: True") for line in others)
    assert float(loaded.split()[-1]) == 0


def test_tensor_parallel_example(capsys):
    alone, together, verdict = printed("tensor_parallel_t5", capsys)
    assert len(alone.split()) == len(together.split()) - 2
    assert verdict.endswith("at most 1e-5: True")


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


@pytest.mark.parametrize(
    ("name", "shown", "times"),
    [
        ("swin_window", "outputs the same, bit for bit", 1),
        ("expanded_bias", "the same, bit for bit", 3),
        ("t5_decoding", "rows of the full bias, bit for bit", 1),
        ("layout_bias", "the same, bit for bit", 1),
    ],
)
def test_relative_bias_example_shows_what_it_says(name, shown, times, capsys):
    importlib.import_module(name).main()
    assert capsys.readouterr().out.count(shown) == times


def test_swin_window_example_compares_gradients():
    swin = importlib.import_module("swin_window")
    plain, ours = swin.both(12, 4)
    x = torch.randn(2, 8, 8, 12)
    exact = swin.bias_gradient(plain.double(), x.double())
    # float32 throughout: attention, softmax and a sum over 8 windows, far from 2^10 roundings
    torch.testing.assert_close(swin.bias_gradient(ours, x), exact, rtol=0, atol=2**-14 * exact.abs().max())


def test_t5_decoding_example_is_the_full_run():
    t5 = importlib.import_module("t5_decoding")
    attention = t5.CausalAttention(dim=16, num_heads=2).double()
    difference, same = t5.decode(attention, torch.randn(2, 20, 16, dtype=torch.float64))
    assert same
    assert difference < 1e-13


def test_layout_bias_example_compares_gradients():
    layout = importlib.import_module("layout_bias")
    plain, ours = layout.gradient_errors(layout.buckets(torch.randint(0, 1000, (1, 200))), 4)
    assert plain > 0.1
    assert ours <= 2**-8
