"""What audit finds in models of other libraries, with random weights."""

import pytest
import torch

import posenc_ext
from posenc_ext.audit import __main__ as command


def found(model):
    """The set of (severity, class, attribute, beginning of the finding)."""
    rows = posenc_ext.audit(model).rows
    return {
        (row.severity, row.class_name, row.what.partition(" ")[0], " ".join(row.finding.split()[:4]))
        for row in rows
    }


def test_torchvision_swin():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    index, table = "relative_position_index", "relative_position_bias_table"
    attention = "torchvision.ShiftedWindowAttention"
    model = command.build("torchvision/swin_t")
    info = ("info", attention, index, "19,208 bytes for an")
    assert found(model) == {info, ("warning", attention, table, "the gradient is summed")}
    assert all(row.fix.startswith("posenc_ext.accelerate(model)") for row in posenc_ext.audit(model).rows)
    posenc_ext.accelerate(model)
    assert found(model) == set()
    posenc_ext.restore(model)
    assert found(model.bfloat16()) == {info, ("warning", attention, table, "the gradient is summed")}


def test_timm_beit():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    result = posenc_ext.audit(timm.create_model("beitv2_base_patch16_224", depth=1))
    assert [row.severity for row in result.rows] == ["warning", "info"]
    assert "posenc_ext.window_bias(table, [14, 14], prefix_tokens=1)" in result.rows[1].fix


def test_transformers_t5():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.T5Model(transformers.T5Config(num_layers=1, d_model=64, d_ff=64, vocab_size=100))
    assert found(model) == set()
    row = ("error", "transformers.T5Attention", "relative_attention_bias.weight", "the gradient is summed")
    assert found(model.bfloat16()) == {row}


def test_transformers_layoutlmv3():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.LayoutLMv3Config(num_hidden_layers=1, vocab_size=100)
    names = ("rel_pos_bias.weight", "rel_pos_x_bias.weight", "rel_pos_y_bias.weight")
    expected = {
        ("error", "transformers.LayoutLMv3Encoder", name, "read under torch.no_grad() or") for name in names
    }
    assert found(transformers.LayoutLMv3Model(config)) == expected


def test_transformers_whisper():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.WhisperConfig(encoder_layers=1, decoder_layers=1, vocab_size=51865)
    (row,) = posenc_ext.audit(transformers.WhisperModel(config)).rows
    assert "computed with float32 angles" in row.finding
    assert 'sinusoidal_table(1500, 384, layout="concat", freq_shift=1)' in row.fix


def test_diffusers_timesteps():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    (row,) = posenc_ext.audit(diffusers.models.embeddings.Timesteps(320, True, 0)).rows
    assert row.finding.startswith("largest error ")
    assert row.fix.endswith("posenc_ext.nn.TimestepEmbedding")


def test_transformers_bloom():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.BloomModel(transformers.BloomConfig(vocab_size=100))
    assert found(model) == set()
    assert found(model.to(torch.bfloat16)) == {
        ("error", "transformers.BloomModel", "the", "slope * position is")
    }
