"""Every encoding and bias can be drawn, from values that posenc_ext computes."""

import subprocess
import sys

import pytest

from posenc_ext import plot

matplotlib = pytest.importorskip("matplotlib", reason="the extra plot is not installed")


def test_every_name_makes_a_picture(tmp_path):
    for name in plot.NAMES:
        path = tmp_path / f"{name}.png"
        figure = plot.draw(name)
        figure.savefig(path)
        assert path.read_bytes().startswith(b"\x89PNG"), name
        assert figure.get_size_inches()[0] * figure.dpi == 800, name


def test_every_axis_is_labelled():
    """Outer axes at least: shared ones have their label on the left and at the bottom."""
    for name in plot.NAMES:
        axes = plot.draw(name).axes
        assert all(ax.get_title() or ax.get_ylabel() for ax in axes), name
        assert any(ax.get_xlabel() for ax in axes), name
        assert all(
            ax.get_xlabel() or ax.get_ylabel() or not ax.get_subplotspec().is_last_row() for ax in axes
        ), name


def test_pictures_show_the_values_of_the_ops():
    image = plot.draw("window").axes[0].images[0].get_array()
    assert image[0].tolist() == [17, 16, 15, 14, 10, 9, 8, 7, 3, 2, 1, 0]
    buckets = plot.draw("t5").axes[0].images[0].get_array()
    assert [int(buckets[0, distance]) for distance in (0, 1, 8, 12, 91)] == [0, 17, 24, 25, 31]


def test_settings_of_matplotlib_are_unchanged():
    before = dict(matplotlib.rcParams)
    plot.draw("alibi")
    assert dict(matplotlib.rcParams) == before


def run(folder, *arguments):
    command = [sys.executable, "-m", "posenc_ext.plot", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_command(tmp_path):
    assert run(tmp_path, "alibi", "-o", str(tmp_path / "alibi.svg")).returncode == 0
    assert "<svg" in (tmp_path / "alibi.svg").read_text()
    wrong = run(tmp_path, "circle", "-o", str(tmp_path / "circle.svg"))
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("posenc_ext.plot: name must be one of sinusoidal, ")
    assert wrong.stderr.count("\n") == 1


def test_missing_matplotlib_is_an_error_of_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["plot", "alibi", "-o", "alibi.svg"])
    assert plot.main() == 2
    assert capsys.readouterr().err == "posenc_ext.plot needs matplotlib: pip install 'posenc_ext[plot]'\n"
