"""posenc_ext.info tells what is registered; its self-test passes, and fails for an op that is wrong."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from posenc_ext import _build, info, ops
from posenc_ext._self_test import self_test

CSRC = Path(__file__).resolve().parents[1] / "csrc"


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["info", *arguments])
        status = info.main()
        return status, capsys.readouterr().out

    return run


def spoil(monkeypatch, name, spoiled):
    original = getattr(ops, name)
    monkeypatch.setattr(ops, name, lambda *args, **options: spoiled(original(*args, **options)))


def test_every_public_op_is_tested_and_passes():
    results = self_test()
    assert results.keys() == set(ops.__all__)
    assert {verdict for tested in results.values() for verdict in tested.values()} == {"PASS"}


def test_json_names_every_overload_and_its_kernels(run):
    status, text = run("--json")
    found = json.loads(text)
    assert status == 0
    assert found["library"]["torch"] == str(torch.__version__).partition("+")[0]
    assert {f"posenc_ext::{name}" for name in found["kernels"]} == {
        ".".join(filter(None, (schema.name, schema.overload_name)))
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("posenc_ext::")
    }
    assert all(found["kernels"].values())
    assert ("CUDA" in found["kernels"]["window_bias"]) == _build.WITH_CUDA
    assert found["self-test"]["t5_bias"]["cpu"] == "PASS"


def test_a_wrong_op_fails_and_the_exit_status_says_so(run, monkeypatch):
    spoil(monkeypatch, "window_bias", lambda result: result + 1e-3)
    spoil(monkeypatch, "t5_bias", lambda result: result.detach() + 0 * result)  # the gradient alone is wrong
    spoil(monkeypatch, "gather_bias", lambda result: result[..., :1])
    spoil(monkeypatch, "alibi_bias", lambda result: result.no_such_method())
    spoil(monkeypatch, "sinusoidal", lambda result: result * torch.nan)
    status, text = run()
    assert status == 1
    failures = dict(re.findall(r"^(\w+) .* cpu FAIL: (.*)$", text, re.MULTILINE))
    assert failures == {
        "window_bias": "result off by 1.0e-03",
        "t5_bias": failures["t5_bias"],
        "gather_bias": "result of shape [3, 4, 1], expected [3, 4, 4]",
        "alibi_bias": "AttributeError: 'Tensor' object has no attribute 'no_such_method'",
        "sinusoidal": "result off by nan",
    }
    assert failures["t5_bias"].startswith("gradient off by ")
    assert run("--json")[0] == 1
    status, text = run("--no-test")
    assert status == 0
    assert "FAIL" not in text


def test_switches_are_those_that_the_library_reads():
    texts = [path.read_text() for path in CSRC.rglob("*.cpp")]
    assert set(info.SWITCHES) == {name for text in texts for name in re.findall(r'"(POSENC_\w+)"', text)}
