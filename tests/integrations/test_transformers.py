"""accelerate() on models of transformers with random weights: outputs, gradients, checkpoints, generation."""

import copy
import io
import pickle
import re
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from support import each
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

transformers = pytest.importorskip("transformers", reason="not installed: requirements/models.txt")

import transformers_models as models  # noqa: E402
from transformers_models import T5, build, tokens  # noqa: E402

from posenc_ext import accelerate, integrations, restore  # noqa: E402

CASES = {case.name: case for case in models.CASES}
FEW = [
    CASES[name] for name in ("T5 sdpa", "SwinModel sdpa", "BeitModel sdpa", "LayoutLMv3Model", "M2M100Model")
]
UNEQUAL = 2.0**-20  # of the largest output: several roundings in each of two layers


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()


def accelerated(model: nn.Module) -> nn.Module:
    ours = copy.deepcopy(model)
    assert accelerate(ours).replaced
    return ours


def tensors(output) -> Iterator[Tensor]:
    for value in output.values() if isinstance(output, dict) else output:
        if isinstance(value, tuple):
            yield from tensors(value)
        elif isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1:
            yield value


def run(model: nn.Module, inputs: dict) -> Tensor:
    dtype = next(model.parameters()).dtype
    inputs = {
        key: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x
        for key, x in inputs.items()
    }
    return next(tensors(model(**inputs)))


@torch.no_grad()
def outputs(model: nn.Module, inputs: dict) -> Tensor:
    return run(model.eval(), inputs)


def trained(model: nn.Module, inputs: dict) -> dict[str, Tensor]:
    """The output in training, and the gradient of every parameter."""
    model.train().zero_grad()
    torch.manual_seed(4)
    output = run(model, inputs)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    (output * weights).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), **grads}


def error(actual: Tensor, exact: Tensor) -> float:
    return (actual.double() - exact.double()).norm().item()


def check_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor], relative: float = 2**-18) -> None:
    """Up to a part of the largest output, and of the largest gradient: some are zero but for rounding."""
    assert ours.keys() == theirs.keys()
    largest = max(grad.norm().item() for name, grad in theirs.items() if name != "output")
    for name, value in theirs.items():
        scale = value.norm().item() if name == "output" else largest
        assert error(ours[name], value) <= relative * scale, name


@each("case", CASES.values(), CASES)
def test_outputs_and_gradients_are_those_of_the_library(case):
    """Bit for bit where ours only gathers; otherwise hardly farther from float64 than the library."""
    plain, inputs = case.build(), case.inputs()
    ours = copy.deepcopy(plain)
    report = accelerate(ours)
    assert len(report.replaced) == case.replaced, report
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert dict(ours.named_buffers()).keys() == dict(plain.named_buffers()).keys()
    mine, theirs = outputs(ours, inputs), outputs(plain, inputs)
    assert (mine - theirs).abs().max() <= (0 if case.equal else UNEQUAL * theirs.abs().max())
    if not case.float64:
        return
    exact = copy.deepcopy(plain if case.complete else ours).double()
    target = outputs(exact, inputs)
    assert error(mine, target) <= 1.25 * error(theirs, target) + 2**-24 * target.norm()
    exact, theirs, mine = (trained(model, inputs) for model in (exact, plain, ours))
    largest = max(grad.norm().item() for name, grad in exact.items() if name != "output")
    assert mine.keys() == exact.keys()
    for name, target in exact.items():
        bound = 2**-22 * (target.norm().item() if name == "output" else largest)
        bound = 2 * error(theirs[name], target) + bound if name in theirs else 8 * bound
        assert error(mine[name], target) <= bound, name


def test_tables_of_layoutlm_get_the_gradient():
    """The derivative of the loss along a random direction, as a difference quotient in float64."""
    model, inputs = accelerated(CASES["LayoutLMv3Model"].build()).double(), CASES["LayoutLMv3Model"].inputs()
    grads = trained(model, inputs)
    names = [name for name in grads if "rel_pos" in name]
    assert len(names) == 3
    weights = torch.randn(grads["output"].shape, generator=torch.Generator().manual_seed(3))
    for name in names:
        table = model.get_parameter(name)
        direction = torch.randn_like(table)
        losses = []
        for step in (1e-4, -1e-4):
            with torch.no_grad():
                table += step * direction
                losses.append((run(model, inputs) * weights).sum().item())
                table -= step * direction
        slope = (losses[0] - losses[1]) / 2e-4
        assert slope == pytest.approx((grads[name] * direction).sum().item(), rel=1e-5), name


@each("case", FEW, [case.name for case in FEW])
def test_restore_gives_the_outputs_back(case):
    model, inputs = case.build(), case.inputs()
    classes = [type(module) for module in model.modules()]
    before = outputs(model, inputs)
    first = accelerate(model)
    assert accelerate(model) == first
    restore(model)
    assert [type(module) for module in model.modules()] == classes
    assert torch.equal(outputs(model, inputs), before)


@each("case", FEW, [case.name for case in FEW])
def test_checkpoints_copies_and_pickles(case, tmp_path):
    plain, inputs = case.build(), case.inputs()
    ours = accelerated(plain)
    expected = outputs(ours, inputs)
    assert torch.equal(outputs(pickle.loads(pickle.dumps(ours)), inputs), expected)
    assert torch.equal(outputs(copy.deepcopy(ours), inputs), expected)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    assert torch.equal(outputs(torch.load(file, weights_only=False), inputs), expected)
    other = case.build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert str(other.load_state_dict(ours.state_dict())) == "<All keys matched successfully>"
    assert torch.equal(outputs(other, inputs), outputs(plain, inputs))
    accelerate(other)
    assert str(other.load_state_dict(plain.state_dict())) == "<All keys matched successfully>"
    assert torch.equal(outputs(other, inputs), expected)
    ours.save_pretrained(tmp_path)
    loaded = type(plain).from_pretrained(tmp_path)
    assert loaded.config.architectures == [type(plain).__name__]
    assert torch.equal(outputs(loaded, inputs), outputs(plain, inputs))
    accelerate(loaded)
    assert torch.equal(outputs(loaded, inputs), expected)


GENERATORS = {
    "T5": ("t5.T5ForConditionalGeneration", transformers.T5Config, T5),
    "UMT5": ("umt5.UMT5ForConditionalGeneration", transformers.UMT5Config, T5),
    "BLOOM": (
        "bloom.BloomForCausalLM",
        transformers.BloomConfig,
        {"hidden_size": 48, "n_layer": 2, "n_head": 12},
    ),
    "MPT": (
        "mpt.MptForCausalLM",
        transformers.MptConfig,
        {"d_model": 48, "n_layers": 2, "n_heads": 12, "max_seq_len": 64},
    ),
    "M2M100": (
        "m2m_100.M2M100ForConditionalGeneration",
        transformers.M2M100Config,
        models.M2M100 | {"decoder_start_token_id": 2},
    ),
}


@each("name", GENERATORS)
def test_greedy_generation_with_a_cache(name):
    """The same tokens; the same scores bit for bit where values are gathered."""
    path, config, options = GENERATORS[name]
    plain = build(
        path, config(**options | {"vocab_size": 50, "eos_token_id": None, "pad_token_id": 0})
    ).eval()
    ours = accelerated(plain)
    mask = torch.ones(2, 40, dtype=torch.int64)
    mask[1, :9] = 0
    options = {
        "max_new_tokens": 12,
        "do_sample": False,
        "output_scores": True,
        "return_dict_in_generate": True,
    }
    for cache in ("dynamic", "static"):
        results = []
        for model in (plain, ours):
            inputs = {"input_ids": tokens(2, 40), "attention_mask": mask}
            results.append(
                model.generate(**inputs, **options, cache_implementation=cache, disable_compile=True)
            )
        theirs, mine = results
        assert torch.equal(mine.sequences, theirs.sequences)
        for one, other in zip(mine.scores, theirs.scores, strict=True):
            bound = 0 if name in ("T5", "UMT5") else UNEQUAL * other.abs().max()
            assert (one - other).abs().max() <= bound


@each("name", ["T5 sdpa", "SwinModel sdpa", "LayoutLMv3Model"])
def test_compiles_without_breaks(name):
    case = CASES[name]
    model, inputs = accelerated(case.build()), case.inputs()
    expected = trained(model, inputs)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    actual = {key.removeprefix("_orig_mod."): x for key, x in trained(compiled, inputs).items()}
    check_equal({key: actual[key] for key in expected}, expected)


def test_traces():
    """torch.jit.trace; classes of transformers cannot be scripted, whether accelerated or not."""
    for name in ("SwinModel eager", "BeitModel eager", "MPNetModel"):
        case = CASES[name]
        model, inputs = accelerated(case.build()).eval(), case.inputs()
        parts = Positional(model, tuple(inputs)), tuple(inputs.values())
        traced = torch.jit.trace(*parts, check_trace=False)
        assert torch.equal(traced(*inputs.values()), outputs(model, inputs)), name


class Positional(nn.Module):
    """A model with tensors as arguments and one as the result."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *values: Tensor) -> Tensor:
        return run(self.model, dict(zip(self.names, values, strict=True)))


def test_activation_checkpointing():
    for name in ("T5 sdpa", "SwinModel eager", "BeitModel sdpa", "M2M100Model"):
        model, inputs = accelerated(CASES[name].build()), CASES[name].inputs()
        expected = trained(model, inputs)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        check_equal(trained(model, inputs), expected)


@each(
    "case", [case for case in CASES.values() if case.float64], [c.name for c in CASES.values() if c.float64]
)
def test_half_precision(case):
    """Under autocast and in bfloat16, no farther from float64 than the library, by a quarter."""
    plain, inputs = case.build(), case.inputs()
    ours = accelerated(plain)
    exact = outputs(copy.deepcopy(ours).double(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        theirs, mine = outputs(plain, inputs), outputs(ours, inputs)
    assert mine.dtype is theirs.dtype
    assert error(mine, exact) <= 1.25 * error(theirs, exact) + 2**-9 * exact.norm()
    theirs, mine = outputs(plain.bfloat16(), inputs), outputs(ours.bfloat16(), inputs)
    assert mine.dtype is theirs.dtype
    assert error(mine, exact) <= 1.25 * error(theirs, exact) + 2**-9 * exact.norm()


def test_dropout_inside_attention_is_that_of_the_library():
    for name, config, attention in (
        ("swin.SwinModel", transformers.SwinConfig, "eager"),
        ("swin.SwinModel", transformers.SwinConfig, "sdpa"),
        ("swinv2.Swinv2Model", transformers.Swinv2Config, ""),
        ("donut.donut_swin.DonutSwinModel", transformers.DonutSwinConfig, ""),
    ):
        options = {"attention_probs_dropout_prob": 0.3, "hidden_dropout_prob": 0.2, "drop_path_rate": 0.0}
        plain = build(name, config(**models.WINDOWS | options), attention)
        inputs = {"pixel_values": models.images(32)}
        check_equal(trained(accelerated(plain), inputs), trained(plain, inputs))


def test_attention_weights_are_those_of_the_library():
    for name in ("SwinModel eager", "Swinv2Model", "DonutSwinModel", "T5 eager", "BeitModel eager"):
        plain, inputs = CASES[name].build().eval(), CASES[name].inputs()
        with torch.no_grad():
            theirs, mine = (model(**inputs, output_attentions=True) for model in (plain, accelerated(plain)))
        key = "encoder_attentions" if name.startswith("T5") else "attentions"
        assert len(mine[key]) == len(theirs[key]) > 1
        for one, other in zip(mine[key], theirs[key], strict=True):
            torch.testing.assert_close(one, other, rtol=2**-20, atol=2**-20)


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_ddp_and_fsdp2(one_process):
    """FSDP2 around every layer, or around every table, where ours calls the embedding of T5 for its hooks."""
    for case in FEW:
        inputs = case.inputs()
        expected = trained(accelerated(case.build()), inputs)
        wrapped = nn.parallel.DistributedDataParallel(accelerated(case.build()))
        actual = {name.removeprefix("module."): x for name, x in trained(wrapped, inputs).items()}
        check_equal(actual, expected)
        for part in (r"(Layer|Block)\)$", r"relative.*\(Embedding|RelativePositionBias\)$"):
            model = accelerated(case.build())
            for name, module in reversed([*model.named_modules()]):
                if re.search(part, f"{name} ({type(module).__name__})"):
                    fully_shard(module)
            fully_shard(model)
            actual = trained(model, inputs)
            full = {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in actual.items()}
            check_equal(full, expected)


def test_hooks_of_an_embedding_are_called():
    """Adapters, offloading and quantization hook or replace it: then the code of the library calls it."""
    plain, inputs = CASES["T5 sdpa"].build(), CASES["T5 sdpa"].inputs()
    ours = accelerated(plain)
    calls = []
    for model in (plain, ours):
        for module in model.modules():
            if getattr(module, "has_relative_attention_bias", False):
                module.relative_attention_bias.register_forward_hook(lambda *_: calls.append(_[2]))
    assert torch.equal(outputs(ours, inputs), outputs(plain, inputs))
    assert len(calls) == 4


# Classes whose models are large, have no text or need other packages


def sinusoid_calls(name: str) -> list[dict]:
    ids, embeds = {"input_ids": tokens(2, 40, padding=9)}, {"inputs_embeds": torch.zeros(2, 40, 16)}
    if name.startswith("MusicgenMelody"):
        calls = [embeds]
    elif name.startswith(("Speech", "TrOCR")):
        calls = [ids]
    else:
        calls = [ids, embeds]
    if name.startswith("Kosmos2"):
        calls.append(ids | {"position_ids": torch.arange(40).repeat(2, 1)})
    return [call | {"past_key_values_length": past} for call in calls for past in (0, 5)]


@each(
    "path",
    [
        "speech_to_text.Speech2TextSinusoidalPositionalEmbedding",
        "speecht5.SpeechT5SinusoidalPositionalEmbedding",
        "trocr.TrOCRSinusoidalPositionalEmbedding",
        "seamless_m4t.SeamlessM4TSinusoidalPositionalEmbedding",
        "seamless_m4t_v2.SeamlessM4Tv2SinusoidalPositionalEmbedding",
        "kosmos2.Kosmos2TextSinusoidalPositionalEmbedding",
        "kosmos2_5.Kosmos2_5TextSinusoidalPositionalEmbedding",
        "musicgen_melody.MusicgenMelodySinusoidalPositionalEmbedding",
    ],
)
def test_sinusoids(path):
    """Within the rounding of the library's float32 angles, in the shape and dtype of the library."""
    cls = models.original(path)
    arguments = (60, 16) if "Melody" in path else (60, 16, 1)
    for dtype in (torch.float32, torch.bfloat16):
        plain = cls(*arguments).to(dtype)
        ours = accelerated(plain)
        for call in sinusoid_calls(cls.__name__):
            theirs, mine = plain(**call), ours(**call)
            assert mine.shape == theirs.shape
            assert mine.dtype is theirs.dtype
            bound = 2**-24 * 60 + (2**-8 if mine.dtype is torch.bfloat16 else 0)
            assert (mine - theirs).abs().max() <= bound
        if "padding_idx" in vars(plain):
            assert not ours(**sinusoid_calls(cls.__name__)[0])[-1, -9:].any()


def test_t5_biases_of_other_models():
    text = {"num_heads": 4, "hidden_size": 16, "d_kv": 4}
    for path, config in (
        ("pop2piano.Pop2PianoAttention", transformers.Pop2PianoConfig(**T5)),
        ("udop.UdopAttention", transformers.UdopConfig(**T5, relative_bias_args=[])),
        ("pix2struct.Pix2StructTextAttention", transformers.Pix2StructTextConfig(**text)),
    ):
        for decoder in (False, True):
            config.is_decoder = decoder
            plain = build(path, config, has_relative_attention_bias=True, layer_idx=0)
            for lengths in ((7, 7), (3, 300), (1, 65)):
                theirs, mine = (
                    module.compute_bias(*lengths, past_seen_tokens=lengths[1] - lengths[0])
                    for module in (plain, accelerated(plain))
                )
                assert torch.equal(mine, theirs), (path, decoder, lengths)


def test_window_attention_with_any_mask():
    """Whole models mask with -100 or 0 alone."""
    sizes = {"dim": 12, "num_heads": 3, "window_size": 4}
    windows, mask = torch.randn(6, 16, 12), torch.randn(3, 16, 16)
    for path, config in (
        ("clap.ClapAudioSelfAttention", transformers.ClapAudioConfig(attention_probs_dropout_prob=0.0)),
        ("donut.donut_swin.DonutSwinSelfAttention", transformers.DonutSwinConfig()),
        ("swinv2.Swinv2SelfAttention", transformers.Swinv2Config()),
        ("swin2sr.Swin2SRSelfAttention", transformers.Swin2SRConfig()),
    ):
        plain = build(path, config, **sizes).eval()
        ours = accelerated(plain)
        for given in (None, mask):
            (theirs,), (mine,) = plain(windows, given), ours(windows, given)
            torch.testing.assert_close(mine, theirs, rtol=2**-18, atol=2**-18)


def test_alibi():
    mask = torch.ones(2, 30, dtype=torch.int64)
    mask[1, :9] = 0
    bound = (
        (2 * 12 + 4) * 2**-24 * 30
    )  # the library raises a float32 root to powers up to the number of heads
    plain = CASES["BloomModel"].build()
    theirs, mine = (
        model.build_alibi_tensor(mask, 12, torch.float32) for model in (plain, accelerated(plain))
    )
    torch.testing.assert_close(mine, theirs, rtol=0, atol=bound)
    plain = CASES["MptModel"].build()
    for most in (8, 4):
        theirs, mine = (model.build_mpt_alibi_tensor(12, 30, most) for model in (plain, accelerated(plain)))
        torch.testing.assert_close(mine, theirs, rtol=0, atol=bound)


def test_beit_at_another_size():
    """Of the window of the table our op, of others the library's code, which resizes the table."""
    plain = CASES["BeitModel sdpa"].build()
    for size in (16, 24):
        inputs = {"pixel_values": models.images(size)}
        for interpolate in (False, True):
            theirs, mine = (
                outputs(model, inputs | {"interpolate_pos_encoding": interpolate})
                for model in (plain, accelerated(plain))
            )
            assert torch.equal(mine, theirs)


# What is not replaced


def reasons(model: nn.Module) -> set[str]:
    return {row.skipped_because for row in accelerate(model).skipped}


def test_unknown_sources_are_skipped(monkeypatch):
    for case in FEW:
        model, inputs = case.build(), case.inputs()
        expected = outputs(model, inputs)
        with monkeypatch.context() as patch:
            patch.setattr(integrations, "_fingerprint", lambda function: "another")
            report = accelerate(model)
            assert not report.replaced
            assert any("differs from that of transformers 5.23" in row.skipped_because for row in report.rows)
        assert torch.equal(outputs(model, inputs), expected)


def test_modules_that_ours_do_not_compute_are_skipped():
    rectangle = models.BEIT | {"image_size": (16, 24)}
    assert any(
        "not square" in why for why in reasons(build("beit.BeitModel", transformers.BeitConfig(**rectangle)))
    )
    wide = T5 | {"relative_attention_num_buckets": 3}
    assert any(
        "must have at least 4 rows" in why
        for why in reasons(build("t5.T5EncoderModel", transformers.T5Config(**wide)))
    )
    attention = models.original("wavlm.WavLMAttention")
    one = attention(16, 2, num_buckets=200, max_distance=4096, has_relative_position_bias=True)
    assert any("buckets are not those of T5" in why for why in reasons(one))
    assert "it has no table: it is given the bias of the first layer" in reasons(CASES["WavLMModel"].build())
    whisper = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        vocab_size=50,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        pad_token_id=0,
    )
    assert reasons(build("whisper.WhisperModel", whisper)) == {"its sinusoids are a weight of the checkpoint"}
