"""bench/end_to_end.py on small models: every variant of a model computes the same."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

timm = pytest.importorskip("timm", reason="timm is not installed (requirements/models.txt)")
pytest.importorskip("transformers", reason="transformers is not installed (requirements/models.txt)")
sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

import end_to_end  # noqa: E402

IMAGES = torch.randn(2, 3, 56, 56)
TEXT = {"input_ids": torch.arange(2, 26).view(2, 12), "attention_mask": torch.ones(2, 12).tril(8).long()}
SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 50}

swin = partial(
    timm.models.SwinTransformer,
    img_size=56,
    embed_dim=16,
    depths=(2, 2),
    num_heads=(2, 4),
    drop_path_rate=0.0,
)
beit = partial(timm.models.Beit, img_size=56, embed_dim=32, depth=2, num_heads=4, use_rel_pos_bias=True)


def encoder():
    return end_to_end.T5EncoderModel(end_to_end.T5Config(dropout_rate=0.0, **SIZES))


MODELS = {
    "Swin": (swin, lambda model: model(IMAGES)),
    "BEiT": (beit, lambda model: model(IMAGES)),
    "T5": (encoder, lambda model: model(**TEXT)[0]),
}


@pytest.mark.parametrize(("make", "run"), MODELS.values(), ids=MODELS)
def test_every_variant_of_a_model_computes_the_same(make, run):
    steps = {
        "training": end_to_end.trained(lambda model: run(model).square().mean()),
        "inference": end_to_end.inferred(run),
    }
    for name, step in steps.items():
        row = end_to_end.compare(name, make, step, rounds=2)
        assert "–" not in row, row


@pytest.mark.parametrize("method", ["window_bias", "window_attention"])
def test_a_variant_that_differs_is_no_row(method, monkeypatch):
    right = getattr(end_to_end, method)
    monkeypatch.setattr(end_to_end, method, lambda *args, **options: 1.1 * right(*args, **options))
    step = end_to_end.inferred(lambda model: model(IMAGES))
    with pytest.raises(SystemExit, match="Swin: the models differ by"):
        end_to_end.compare("Swin", swin, step, rounds=1)


def test_the_interval_of_a_median_is_of_order_statistics():
    assert end_to_end.interval([float(i) for i in range(5)]) == (0.0, 4.0)  # 94 %: no pair has more
    assert end_to_end.interval([float(i) for i in range(9)]) == (1.0, 7.0)  # 96 %
    assert end_to_end.interval([float(i) for i in range(21)]) == (5.0, 15.0)  # 97 %


def test_the_peak_is_of_memory_that_is_held_at_once():
    def step(model):
        for _ in range(3):
            kept = torch.ones(2**20)  # 4 MiB
            torch.ones(2**19)
        return kept[0]

    assert end_to_end.peak(step, None) == pytest.approx(8, abs=0.1)
