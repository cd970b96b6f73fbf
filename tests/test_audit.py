"""audit finds every planted fault of a model's position code, and nothing in a model without one."""

import copy
import doctest
import json
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import posenc_ext
from posenc_ext import _progress, plot, reference
from posenc_ext.audit import __main__ as command


def classic_table(length, dim, dtype=torch.float32):
    """The table that people copy, with positions and angles in a dtype."""
    positions = torch.arange(length).to(dtype).unsqueeze(1)
    frequencies = torch.exp(torch.arange(0, dim, 2).to(dtype) * (-math.log(10000.0) / dim))
    angles = positions * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class Holder(nn.Module):
    """A module that holds one tensor."""

    def __init__(self, **buffers):
        super().__init__()
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)


class Window(nn.Module):
    """The bias of Swin, as it is copied."""

    def __init__(self, window=(7, 7), heads=4):
        super().__init__()
        rows = math.prod(2 * size - 1 for size in window)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, heads))
        self.register_buffer("relative_position_index", reference.window_index(window))

    def forward(self):
        return self.relative_position_bias_table[self.relative_position_index]


class WithoutGradient(Window):
    def forward(self):
        with torch.no_grad():
            return self.relative_position_bias_table[self.relative_position_index]


class Detached(Window):
    def forward(self):
        return self.relative_position_bias_table.detach()[self.relative_position_index]


class ResizedWithoutGradient(Window):
    @torch.no_grad()
    def resize(self):
        self.relative_position_bias_table = nn.Parameter(self.relative_position_bias_table.clone())


class T5(nn.Module):
    def __init__(self):
        super().__init__()
        self.relative_attention_bias = nn.Embedding(32, 8)


def found(model, severity=None):
    """(what, finding) of each row."""
    rows = posenc_ext.audit(model).rows
    return [(row.what.partition(" ")[0], row.finding) for row in rows if severity in (None, row.severity)]


def only(model):
    (row,) = posenc_ext.audit(model).rows
    return row


def layouts():
    """(the tensor, the call that the audit names) of every layout."""
    for dim in (32, 33):
        for layout in ("interleaved", "concat", "concat_cos_first"):
            for odd in ("zero", "sin") if dim == 33 else ("error",):
                for options in ({}, {"freq_shift": 1.0}, {"base": 100.0}, {"scale": 0.5}, {"start": 1}):
                    options = options | {"layout": layout, "odd": odd}
                    table = posenc_ext.sinusoidal_table(80, dim, dtype=torch.float64, **options)
                    yield table, f"posenc_ext.sinusoidal_table(80, {dim}, "
    for order in ("mae", "timm", "timm_interleaved"):
        for size in ([6, 6], [4, 10]):
            table = posenc_ext.sinusoidal_grid(size, 32, order=order, extra_tokens=1, dtype=torch.float64)
            yield table, f'posenc_ext.sinusoidal_grid({size}, 32, order="{order}")'
    scaled = posenc_ext.sinusoidal_grid([6, 6], 32, scale=[0.5, 0.75], dtype=torch.float64)
    yield scaled, 'posenc_ext.sinusoidal_grid([6, 6], 32, order="mae", scale=[0.5, 0.75])'
    cube = posenc_ext.sinusoidal_grid([4, 4, 4], 48, order="monai", dtype=torch.float64)
    yield cube, 'posenc_ext.sinusoidal_grid([4, 4, 4], 48, order="monai")'


def test_exact_tables_of_every_layout_are_right():
    for table, call in layouts():
        result = posenc_ext.audit(Holder(pe=table.float().unsqueeze(0)))
        assert (result.rows, result.unknown) == ((), ()), f"{call}: {result}"
        assert result.checked["sinusoidal tables"] == 1, call


def test_every_layout_is_recognized_after_rounding():
    for table, call in layouts():
        row = only(Holder(pe=table.bfloat16()))
        assert row.fix.startswith(call), row
        assert row.finding.endswith("rounded to bfloat16"), row
        assert row.severity == "info", row


def test_errors_are_those_of_float64():
    table = classic_table(2000, 64)
    exact = posenc_ext.sinusoidal_table(2000, 64, dtype=torch.float64)
    error = (table.double() - exact).abs()
    position = int(error.amax(1).argmax())
    finding = only(Holder(pe=table)).finding
    assert finding.startswith(f"largest error {error.max():.1e} (position {position}), "), finding
    next_after = torch.nextafter(exact.abs().float(), torch.tensor(math.inf)) - exact.abs().float()
    ulps = (error / next_after.double()).max()
    assert float(finding.split("), ")[1].split(" ulp")[0]) == pytest.approx(ulps.item(), rel=0.01)


def test_cause_is_named():
    table = classic_table(2000, 64)
    causes = {
        "computed with float32 angles, so that the error grows with the position": table,
        "rounded to float16 and converted back to float32": table.half().float(),
        "computed with float32 angles and rounded to bfloat16": table.bfloat16(),
        "computed with angles in bfloat16": classic_table(2000, 64, torch.bfloat16),
        "of unknown cause": table + 0.001 * (torch.arange(2000).unsqueeze(1) == 1000),
    }
    for cause, tensor in causes.items():
        row = only(Holder(pe=tensor))
        assert row.finding.endswith(f": {cause}"), row
        assert row.severity == ("error" if "angles in bf" in cause else "warning"), row


def test_row_of_padding_is_no_fault():
    table = posenc_ext.sinusoidal_table(100, 32, layout="concat", freq_shift=1.0)
    for padding in (0, 1):
        table[padding] = 0
        assert found(Holder(weights=table)) == []


def test_table_that_was_not_filled():
    model = Holder(pos_embed=torch.zeros(1, 50, 32))
    assert found(model, "error") == [("pos_embed", "all zeros, and not trained: it was not filled")]
    broken = classic_table(100, 32)
    broken[50, 3] = math.nan
    assert found(Holder(pe=broken), "error") == [("pe", "has values that are not finite")]


def test_tables_that_are_not_buffers():
    frozen = nn.Embedding.from_pretrained(classic_table(500, 32))
    assert found(frozen)[0][0] == "weight"
    trained = nn.Embedding.from_pretrained(classic_table(500, 32), freeze=False)
    assert found(trained) == []
    attribute = nn.Module()
    attribute.pe = classic_table(500, 32)
    assert ("pe", "a plain attribute, which model.to(device) does not move") in found(attribute)


def test_other_tensors_are_no_tables():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Embedding(100, 32), nn.Conv2d(8, 8, 3))
    result = posenc_ext.audit(model.requires_grad_(False))
    assert (result.rows, result.unknown, sum(result.checked.values())) == ((), (), 0)


def test_unknown_layout_is_said():
    table = posenc_ext.sinusoidal_table(100, 32)[
        :, torch.randperm(32, generator=torch.Generator().manual_seed(0))
    ]
    result = posenc_ext.audit(Holder(pe=table))
    assert result.unknown == ("pe: looks sinusoidal, but has no known layout",)
    assert posenc_ext.audit(Holder(pe=table.to("meta"))).unknown == ("pe: a meta Tensor",)


def test_frequencies_in_half_precision():
    frequencies = 10000 ** (-torch.arange(0, 64, 2) / 64)
    assert found(Holder(inv_freq=frequencies)) == []
    (finding,) = found(Holder(inv_freq=frequencies.half()), "error")
    off = (frequencies.half().double() - 10000 ** (-torch.arange(0, 64, 2).double() / 64)).abs().max()
    assert finding[1].endswith(f"at position 1000, an angle is off by {1000 * off:.2g} radians")


def test_window_index():
    for window in ([7], [7, 7], [4, 6], [2, 3, 4]):
        row = only(Window(window, heads=1))
        size = 8 * math.prod(window) ** 2
        assert row.finding == f"{size:,} bytes for an index that the window {window} determines"
        assert (row.severity, row.fix) == ("info", f"posenc_ext.window_bias(table, {window})")
    model = Window([7, 7], heads=1)
    model.relative_position_bias_table = nn.Parameter(torch.zeros(172, 1))
    model.relative_position_index = reference.window_index([7, 7], prefix_tokens=1)
    assert only(model).fix == "posenc_ext.window_bias(table, [7, 7], prefix_tokens=1)"


def test_wrong_index():
    model = Window([4, 6], heads=1)
    dy = model.relative_position_index // 11
    model.relative_position_index = model.relative_position_index - 11 * dy + 7 * dy
    assert found(model, "error")[0][1] == (
        "offsets share rows: row stride 7 instead of 11, 53 of 77 rows are used"
    )
    model.relative_position_index = torch.full((576,), -3)
    assert found(model, "error")[0][1] == (
        "indices must be in [0, 76], found [-3, -3]: the buffer was not filled"
    )


def test_table_without_gradient():
    for model in (WithoutGradient(), Detached()):
        assert found(model, "error") == [
            (
                "relative_position_bias_table",
                "read under torch.no_grad() or detached, so that it gets no gradient",
            )
        ]
    assert found(ResizedWithoutGradient(), "error") == []
    model = Window()
    model.relative_position_bias_table.requires_grad_(False)
    assert found(model, "warning") == []  # nothing in the module is trained
    model.scale = nn.Parameter(torch.ones(()))
    assert found(model, "warning")[0][1].startswith("requires_grad=False, while")


def test_order_of_the_gradient():
    """index_put_ adds atomically from 32768 elements on; smaller sums and embeddings have a fixed order."""
    for heads, rows in ((13, []), (14, [f"the gradient is summed in no fixed order: {2401 * 14:,} terms"])):
        assert [
            finding.partition(", added")[0] for _, finding in found(Window(heads=heads), "warning")
        ] == rows
    assert found(T5()) == []


def test_gradient_in_half_precision():
    for model, severity in ((Window().bfloat16(), "warning"), (T5().bfloat16(), "error")):
        (finding,) = found(model, severity)
        error = float(finding[1].split("relative error ")[1].split()[0])
        assert finding[1].startswith("the gradient is summed in bfloat16: ")
        assert 2**-9 < error < 1
    assert found(T5().half())[0][1].startswith("the gradient is summed in float16: ")


def test_measured_error_is_that_of_torch():
    from posenc_ext.audit import _biases

    assert _biases._gradient_error("index", 169, 4, 2401, torch.bfloat16) > 2**-9
    assert _biases._gradient_error("index", 169, 4, 2401, torch.float32) < 1e-6
    assert _biases._gradient_error("embedding", 32, 4, 1 << 16, torch.float64) < 1e-12


def test_modules_of_posenc_ext_have_no_findings():
    modules = nn.Sequential(
        posenc_ext.nn.SinusoidalPositionalEncoding(64, 0.0, emit_pe=True),
        posenc_ext.nn.WindowRelativePositionBias([7, 7], 32, emit_index="flat"),
        posenc_ext.nn.T5RelativePositionBias(32, 8),
        posenc_ext.nn.LogCoordinatePositionBias([7, 7], 32),
        posenc_ext.nn.AlibiBias(8),
    )
    assert found(modules) == []
    assert found(modules.bfloat16()) == []


def test_nothing_is_changed():
    model = nn.Sequential(Window(heads=14), T5(), Holder(pe=classic_table(2000, 64)), nn.Dropout()).bfloat16()
    model[3].eval()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    before = copy.deepcopy([(m.training, sorted(vars(m))) for m in model.modules()])
    random = torch.get_rng_state()
    assert posenc_ext.audit(model).rows
    assert torch.equal(torch.get_rng_state(), random)
    assert [(m.training, sorted(vars(m))) for m in model.modules()] == before
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()


def test_printed_and_as_json():
    model = nn.Sequential(Window(heads=14), Window(heads=14), T5().bfloat16())
    result = posenc_ext.audit(model)
    text = str(result)
    first = "torch.Sequential: 1 error, 2 warnings, 2 info (checked: 3 bias tables, 2 indices)"
    assert text.splitlines()[0] == first
    assert "0 and 1 more: " in text
    parsed = json.loads(result.to_json())
    assert parsed["rows"][0]["severity"] == "error"
    assert [row["module"] for row in parsed["rows"]] == [row.module for row in result.rows]
    assert set(parsed) == {"model", "rows", "checked", "unknown"}


def test_command_reports_errors(capsys, monkeypatch):
    for name, message in (
        ("swin_t", "a model is LIBRARY/NAME with a library of torchvision, timm, transformers, diffusers"),
        (
            "keras/swin",
            "a model is LIBRARY/NAME with a library of torchvision, timm, transformers, diffusers",
        ),
    ):
        monkeypatch.setattr(sys, "argv", ["audit", name])
        assert command.main() == 2
        assert capsys.readouterr().err == f"posenc_ext.audit: {message}, got {name}\n"
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(sys, "argv", ["audit", "timm/swin"])
    assert command.main() == 2
    assert capsys.readouterr().err.startswith("posenc_ext.audit: timm cannot be imported: ")


def test_command_status(capsys, monkeypatch):
    for model, status in ((nn.Linear(2, 2), 0), (T5().half(), 1)):
        monkeypatch.setattr(command, "build", lambda name, model=model: model)
        monkeypatch.setattr(sys, "argv", ["audit", "timm/any", "--json"])
        assert command.main() == status
        assert bool(json.loads(capsys.readouterr().out)["rows"]) == bool(status)


def test_command_starts_without_warnings(tmp_path):
    run = [sys.executable, "-W", "error", "-m", "posenc_ext.audit", "--help"]
    result = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_progress_is_shown_in_lines_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(_progress, "_SECONDS_BETWEEN_LINES", 0)
    assert list(_progress.progress(range(3), "audit")) == [0, 1, 2]
    assert capsys.readouterr().err.splitlines() == [f"audit: {done} of 3" for done in range(3)]


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    monkeypatch.setattr(_progress, "_SECONDS_BEFORE_BAR", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(_progress.progress(range(3), "audit")) == [0, 1, 2]
    assert "audit: " in capsys.readouterr().err


def test_examples_of_docstrings():
    for module in (sys.modules["posenc_ext.audit"], _progress, plot):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed
