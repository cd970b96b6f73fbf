"""Window biases against torchvision, timm and transformers: values, gradients, checkpoints, whole models.

Upstream gradients are small integers: their sums are exact in float32, so gradients of gathers have to be
equal in every bit, whatever the order of the sums.
"""

import pytest
import torch

REASON = "the libraries are in the environment of the CUDA build (requirements/models.txt)"
torchvision = pytest.importorskip("torchvision", reason=REASON)
timm = pytest.importorskip("timm", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

from timm.layers import RelPosBias, RelPosBiasTf, RelPosMlp  # noqa: E402
from timm.models import beit as timm_beit  # noqa: E402
from timm.models import swin_transformer as timm_swin  # noqa: E402
from timm.models import swin_transformer_v2 as timm_swin_v2  # noqa: E402
from timm.models import swin_transformer_v2_cr as timm_swin_v2_cr  # noqa: E402
from torchvision.models import swin_transformer  # noqa: E402
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention  # noqa: E402
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d  # noqa: E402
from transformers.models.beit import modeling_beit  # noqa: E402
from transformers.models.swin import modeling_swin  # noqa: E402
from transformers.models.swinv2 import modeling_swinv2  # noqa: E402

from posenc_ext.nn import LogCoordinatePositionBias, WindowRelativePositionBias  # noqa: E402

POSITION_KEYS = ("relative_", "cpb_mlp", "continuous_position_bias_mlp", "mlp", "meta_mlp")
# A library's sigmoid rounds the elements at the end of a loop otherwise than those inside, and its loop is
# over the pairs, ours over the table: one or two units of 2^-24 below 1, times 16.
SIGMOID = 2 * 2**-20


def share_weights(original, ours):
    """Original's position keys to ours; then new weights of ours to the original, as a whole checkpoint."""
    whole = original.state_dict()
    position = {key: value for key, value in whole.items() if key.startswith(POSITION_KEYS)}
    assert position
    assert ours.load_state_dict(position) == ([], [])
    state = ours.state_dict()
    assert set(state) == set(position)
    for key, value in position.items():
        assert torch.equal(state[key], value), key
        assert state[key].dtype is value.dtype
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.1)  # Swin v2's sigmoid stays away from 0 and 1
    assert original.load_state_dict({**whole, **ours.state_dict()}) == ([], [])


def compare_gathers(compare, library, name, original, ours, call):
    """Values and gradients of the table, bit for bit, after an exchange of checkpoints."""
    share_weights(original, ours)
    theirs, mine = call(original), ours()
    if theirs.dim() == 3:
        theirs = theirs.unsqueeze(0)
    compare(library, name, mine, theirs)
    grad = torch.randint(-8, 9, mine.shape).float()
    (expected,) = torch.autograd.grad(theirs, [original.relative_position_bias_table], grad)
    (actual,) = torch.autograd.grad(mine, [ours.relative_position_bias_table], grad)
    compare(library, name, actual, expected, what="gradient")


# One table row for each pair


@pytest.mark.parametrize("window", [[7, 7], [8, 8], [3, 5], [6, 2], [1, 4]], ids=str)
def test_torchvision_swin(compare, window):
    original = swin_transformer.ShiftedWindowAttention(12, window, [0, 0], 3)
    ours = WindowRelativePositionBias(window, 3, emit_index="flat")
    call = swin_transformer.ShiftedWindowAttention.get_relative_position_bias
    compare_gathers(compare, "torchvision", "ShiftedWindowAttention", original, ours, call)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_torchvision_swin_in_other_dtypes(compare, dtype):
    original = swin_transformer.ShiftedWindowAttention(12, [7, 7], [0, 0], 3)
    ours = WindowRelativePositionBias([7, 7], 3, emit_index="flat")
    share_weights(original, ours)
    theirs, mine = original.to(dtype).get_relative_position_bias(), ours.to(dtype)()
    compare("torchvision", "ShiftedWindowAttention", mine, theirs)


@pytest.mark.parametrize("window", [[8, 7, 7], [2, 3, 4], [4, 1, 3]], ids=str)
def test_torchvision_video_swin(compare, window):
    original = ShiftedWindowAttention3d(12, window, [0, 0, 0], 3)
    ours = WindowRelativePositionBias(window, 3, emit_index="square")
    name = "ShiftedWindowAttention3d"
    compare_gathers(
        compare, "torchvision", name, original, ours, lambda m: m.get_relative_position_bias(window)
    )
    clipped = [max(1, window[0] // 2), window[1], max(1, window[2] - 1)]
    tokens = clipped[0] * clipped[1] * clipped[2]
    theirs = original.get_relative_position_bias(clipped)
    compare("torchvision", f"{name}, clipped", ours()[..., :tokens, :tokens], theirs)
    theirs = original.get_relative_position_bias([clipped[0], *window[1:]])
    compare("torchvision", f"{name}, clipped along its first axis", ours([clipped[0], *window[1:]]), theirs)


@pytest.mark.parametrize("size", [7, 3])
def test_torchvision_maxvit(compare, size):
    original = RelativePositionalMultiHeadAttention(12, 4, size * size)
    ours = WindowRelativePositionBias([size, size], 3, emit_index="square")
    call = RelativePositionalMultiHeadAttention.get_relative_positional_bias
    compare_gathers(compare, "torchvision", "RelativePositionalMultiHeadAttention", original, ours, call)


@pytest.mark.parametrize("window", [(7, 7), (14, 14), (3, 5)], ids=str)
@pytest.mark.parametrize("prefix_tokens", [0, 1])
def test_timm_rel_pos_bias(compare, window, prefix_tokens):
    original = RelPosBias(window, 3, prefix_tokens)
    ours = WindowRelativePositionBias(window, 3, prefix_tokens)
    name = f"RelPosBias, prefix_tokens={prefix_tokens}"
    compare_gathers(compare, "timm", name, original, ours, RelPosBias.get_bias)


@pytest.mark.parametrize("window", [(7, 7), (3, 5), (6, 2)], ids=str)
def test_timm_rel_pos_bias_tf(compare, window):
    original = RelPosBiasTf(window, 3)
    ours = WindowRelativePositionBias(window, 3, heads_first=True)
    compare_gathers(compare, "timm", "RelPosBiasTf", original, ours, RelPosBiasTf.get_bias)


def test_timm_beit(compare):
    original = timm_beit.Attention(12, 3, window_size=(14, 14))
    ours = WindowRelativePositionBias((14, 14), 3, prefix_tokens=1)
    call = timm_beit.Attention._get_rel_pos_bias
    compare_gathers(compare, "timm", "beit Attention", original, ours, call)


@pytest.mark.parametrize("window", [(7, 7), (3, 5)], ids=str)
def test_timm_swin(compare, window):
    original = timm_swin.WindowAttention(12, 3, window_size=window)
    ours = WindowRelativePositionBias(window, 3)
    call = timm_swin.WindowAttention._get_rel_pos_bias
    compare_gathers(compare, "timm", "swin_transformer WindowAttention", original, ours, call)


@pytest.mark.parametrize("window", [(7, 7), (3, 5)], ids=str)
def test_transformers_swin(compare, window):
    original = modeling_swin.SwinRelativePositionBias(3, window)
    ours = WindowRelativePositionBias(window, 3)
    compare_gathers(compare, "transformers", "SwinRelativePositionBias", original, ours, lambda m: m())


# Square windows: transformers 5.23 resizes the table in every call, and reads that of an h x w window as one
# of w x h: other windows get biases that are in no row of the table.
@pytest.mark.parametrize("size", [224, 64])
def test_transformers_beit(compare, size):
    config = transformers.BeitConfig(image_size=size, hidden_size=12, num_attention_heads=3)
    original = modeling_beit.BeitRelativePositionBias(config)
    window = original.window_size
    ours = WindowRelativePositionBias(window, 3, prefix_tokens=1)
    call = modeling_beit.BeitRelativePositionBias.forward
    name = "BeitRelativePositionBias"
    compare_gathers(compare, "transformers", name, original, ours, lambda m: call(m, window))


# Swin v2


def compare_mlps(compare, library, name, original, ours, call, parameters, atol):
    """Values in float32; gradients in float64, where only the order of sums differs, and names."""
    share_weights(original, ours)
    compare(library, name, ours(), call(original), atol=atol)
    original.double(), ours.double()
    theirs, mine = call(original), ours()
    grad = torch.randn_like(mine)
    pairs = mine.shape[-1] ** 2
    expected = torch.autograd.grad(theirs, parameters, grad)
    actual = torch.autograd.grad(mine, list(ours.parameters()), grad)
    for a, b in zip(actual, expected, strict=True):
        # Each is a sum over all pairs and hidden features, taken in another order.
        bound = pairs * 2**-52 * b.abs().max().item()
        compare(library, name, a, b, atol=bound, what="gradient")


def scores_of_zero_queries(attention, features=12):
    """What reaches the softmax of timm's attention when queries are zero: the bias alone."""
    captured = []
    handle = attention.softmax.register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0]))
    with torch.no_grad():
        attention.qkv.weight.zero_()
    weight = attention.qkv.weight
    tokens = attention.window_size[0] * attention.window_size[1]
    attention(torch.randn(1, tokens, features, dtype=weight.dtype))
    handle.remove()
    return captured[0]


@pytest.mark.parametrize("window", [[7, 7], [8, 8], [3, 5], [16, 4]], ids=str)
def test_torchvision_swin_v2(compare, window):
    original = swin_transformer.ShiftedWindowAttentionV2(12, window, [0, 0], 3)
    ours = LogCoordinatePositionBias(window, 3, emit_index="flat")
    call = swin_transformer.ShiftedWindowAttentionV2.get_relative_position_bias
    parameters = list(original.cpb_mlp.parameters())
    name = "ShiftedWindowAttentionV2"
    compare_mlps(compare, "torchvision", name, original, ours, call, parameters, SIGMOID)


@pytest.mark.parametrize("window", [(7, 7), (3, 5), (1, 4)], ids=str)
@pytest.mark.parametrize("pretrained", [(0, 0), (12, 12)], ids=str)
def test_timm_swin_v2(compare, window, pretrained):
    original = timm_swin_v2.WindowAttention(12, window, 3, pretrained_window_size=pretrained)
    ours = LogCoordinatePositionBias(window, 3, pretrained_window=pretrained)
    parameters = list(original.cpb_mlp.parameters())
    name = "swin_transformer_v2 WindowAttention"
    compare_mlps(compare, "timm", name, original, ours, scores_of_zero_queries, parameters, SIGMOID)


@pytest.mark.parametrize("window", [(7, 7), (8, 8), (3, 5)], ids=str)
@pytest.mark.parametrize("mode", ["swin", "cr"])
@pytest.mark.parametrize("prefix_tokens", [0, 1])
def test_timm_rel_pos_mlp(compare, window, mode, prefix_tokens):
    original = RelPosMlp(window, 3, prefix_tokens=prefix_tokens, mode=mode).eval()
    options = {"mode": mode, "prefix_tokens": prefix_tokens, "dropout": 0.125, "mlp_name": "mlp"}
    ours = LogCoordinatePositionBias(window, 3, 128, **options).eval()
    parameters = list(original.mlp.parameters())
    # Without a sigmoid the two sides differ by torch's choice of addmm, or of a product and a sum: a rounding
    # of each hidden feature, and of the result.
    atol = SIGMOID if mode == "swin" else 128 * 2**-23
    name = f"RelPosMlp, {mode}"
    compare_mlps(compare, "timm", name, original, ours, RelPosMlp.get_bias, parameters, atol)


def test_timm_rel_pos_mlp_while_training(compare):
    """The same draws: dropout is over the hidden features of the same coordinates, in the same order."""
    original = RelPosMlp((7, 7), 3, mode="cr")
    ours = LogCoordinatePositionBias((7, 7), 3, 128, mode="cr", dropout=0.125, mlp_name="mlp")
    share_weights(original, ours)
    torch.manual_seed(3)
    theirs = original.get_bias()
    torch.manual_seed(3)
    compare("timm", "RelPosMlp, cr", ours(), theirs, atol=128 * 2**-23)


@pytest.mark.parametrize("window", [(7, 7), (3, 5)], ids=str)
def test_timm_swin_v2_cr(compare, window):
    original = timm_swin_v2_cr.WindowMultiHeadAttention(12, 3, window).eval()
    ours = LogCoordinatePositionBias(window, 3, 384, mode="cr", mlp_name="meta_mlp").eval()
    parameters = list(original.meta_mlp.parameters())
    call = timm_swin_v2_cr.WindowMultiHeadAttention._relative_positional_encodings
    # The original runs the MLP on every pair: another matrix product, and 384 hidden features to sum.
    name = "swin_transformer_v2_cr WindowMultiHeadAttention"
    compare_mlps(compare, "timm", name, original, ours, call, parameters, 384 * 2**-23)


@pytest.mark.parametrize("window", [(7, 7), (3, 5)], ids=str)
@pytest.mark.parametrize("pretrained", [(0, 0), (12, 12)], ids=str)
def test_transformers_swin_v2(compare, window, pretrained):
    config = transformers.Swinv2Config()
    original = modeling_swinv2.Swinv2SelfAttention(config, 12, 3, window, pretrained).eval()
    ours = LogCoordinatePositionBias(
        window, 3, pretrained_window=pretrained, mlp_name="continuous_position_bias_mlp"
    )
    share_weights(original, ours)
    with torch.no_grad():
        original.query.weight.zero_()
        original.query.bias.zero_()
    _, probabilities = original(torch.randn(1, window[0] * window[1], 12), output_attentions=True)
    # Queries of zero leave the bias alone in the softmax, which passes on at most half of a difference.
    compare("transformers", "Swinv2SelfAttention, softmax", ours().softmax(-1), probabilities, atol=SIGMOID)


# Whole models: the library's own with our module in the place of its bias


def replace_biases(model, attention_class, method, build):
    """Makes every attention take its bias from our module with its weights; returns how many there are."""
    attentions = [module for module in model.modules() if isinstance(module, attention_class)]
    for attention in attentions:
        ours = build(attention)
        keys = {key: value for key, value in attention.state_dict().items() if key.startswith(POSITION_KEYS)}
        assert ours.load_state_dict(keys) == ([], [])
        setattr(attention, method, ours.forward)
    return len(attentions)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_torchvision_swin_model(compare, version):
    v2 = version == "v2"
    block = swin_transformer.SwinTransformerBlockV2 if v2 else swin_transformer.SwinTransformerBlock
    merging = swin_transformer.PatchMergingV2 if v2 else swin_transformer.PatchMerging
    model = torchvision.models.SwinTransformer(
        [4, 4], 12, [2, 2], [2, 3], [7, 7], num_classes=5, block=block, downsample_layer=merging
    ).eval()
    images = torch.randn(2, 3, 56, 56)
    theirs = model(images)
    build = LogCoordinatePositionBias if v2 else WindowRelativePositionBias
    count = replace_biases(
        model,
        swin_transformer.ShiftedWindowAttention,
        "get_relative_position_bias",
        lambda attention: build(attention.window_size, attention.num_heads),
    )
    assert count == 4
    name = "SwinTransformer V2, a whole model" if v2 else "SwinTransformer, a whole model"
    # v2: a few biases differ by SIGMOID, and the blocks pass that on by factors near 1.
    compare("torchvision", name, model(images), theirs, atol=16 * SIGMOID if v2 else 0.0)


def test_transformers_beit_model(compare):
    config = transformers.BeitConfig(
        image_size=32,
        patch_size=8,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=8,
        use_relative_position_bias=True,
    )
    model = transformers.BeitModel(config).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias_table" in name:
                parameter.normal_()
    theirs = model(images).last_hidden_state
    layers = [module for module in model.modules() if isinstance(module, modeling_beit.BeitLayer)]
    assert len(layers) == 2
    for layer in layers:
        ours = WindowRelativePositionBias((4, 4), 3, prefix_tokens=1)
        ours.load_state_dict(layer.relative_position_bias.state_dict())
        layer.relative_position_bias.forward = lambda *arguments, ours=ours, **options: ours()
    compare("transformers", "BeitModel, a whole model", model(images).last_hidden_state, theirs)
