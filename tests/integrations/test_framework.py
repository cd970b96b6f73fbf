"""accelerate, restore and Report, with a module of this file in place of another library's."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import posenc_ext
from posenc_ext import integrations


def helper(x: Tensor) -> Tensor:
    return x + 1


class Toy(nn.Module):
    def __init__(self, plain: bool = False) -> None:
        super().__init__()
        self.plain = plain
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return helper(x) * self.weight


class FastToy(Toy):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 1) * self.weight


class Other(nn.Module):
    pass


def known_sources() -> dict[str, str]:
    return {"forward": integrations._fingerprint(Toy.forward), "helper": integrations._fingerprint(helper)}


def register(sources: dict[str, str]) -> None:
    def unless(module: nn.Module) -> str:
        return "it is plain" if module.plain else ""

    integrations.replaces(Toy, "fast", version="toys 1", sources=sources, unless=unless)(FastToy)


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    monkeypatch.setattr(integrations, "_replacements", {})
    monkeypatch.setattr(integrations, "_originals", {})
    register(known_sources())
    integrations.keeps(Other, "nothing computes it")


def reasons(model: nn.Module) -> list[str]:
    return [row.skipped_because for row in posenc_ext.accelerate(model).rows]


def test_a_module_is_replaced_and_restored():
    model = nn.Sequential(Toy(), nn.ReLU(), Other())
    before = dict(vars(model[0]))
    report = posenc_ext.accelerate(model)
    library = __name__.partition(".")[0]
    assert report.rows == (
        ("0", f"{library}.Toy", "fast", ""),
        ("2", f"{library}.Other", "", "nothing computes it"),
    )
    assert report.replaced == report.rows[:1]
    assert report.skipped == report.rows[1:]
    assert type(model[0]) is FastToy
    assert vars(model[0]) == before
    assert posenc_ext.accelerate(model) == report
    posenc_ext.restore(model)
    assert type(model[0]) is Toy
    posenc_ext.restore(model)
    assert type(model[0]) is Toy


def test_the_report_is_a_table():
    lines = str(posenc_ext.accelerate(Toy())).splitlines()
    library = __name__.partition(".")[0]
    width = len(library) + 4
    assert lines == [
        f"module       {'class'.ljust(width)}  replaced by  skipped because",
        f"(the model)  {library}.Toy  fast",
        "1 modules replaced, 0 skipped",
    ]
    assert str(posenc_ext.accelerate(nn.ReLU())) == "0 modules replaced, 0 skipped"


def test_a_module_that_is_used_twice_is_replaced_once():
    toy = Toy()
    assert len(posenc_ext.accelerate(nn.ModuleList([toy, toy])).rows) == 1


@pytest.mark.parametrize("name", ["forward", "helper"])
def test_an_unknown_source_is_skipped(name):
    register(known_sources() | {name: "0123456789ab"})
    full_name = {"forward": "Toy.forward"}.get(name, name)
    found = known_sources()[name]
    model = Toy()
    (reason,) = reasons(model)
    assert reason == f"source of {full_name} differs from that of toys 1 (fingerprint {found})"
    assert type(model) is Toy
    register(known_sources() | {name: f"0123456789ab {found}"})
    assert reasons(model) == [""]


def test_a_missing_source_is_skipped(monkeypatch):
    register(known_sources() | {"absent": "0123456789ab"})
    assert reasons(Toy()) == ["no source of absent was found"]
    register(known_sources())
    monkeypatch.setattr(Toy, "forward", eval("lambda self, x: x"))
    assert reasons(Toy()) == ["no source of Toy.forward was found"]


def test_a_patched_class_is_skipped(monkeypatch):
    def forward(self, x):
        return x

    monkeypatch.setattr(Toy, "forward", forward)
    assert "differs from that of toys 1" in reasons(Toy())[0]


def test_modules_that_are_not_exactly_of_the_class_are_skipped():
    class Derived(Toy):
        pass

    parametrized, patched = Toy(), Toy()
    parametrize.register_parametrization(parametrized, "weight", nn.Identity())
    patched.forward = lambda x: x
    models = nn.ModuleList([Derived(), parametrized, patched, Toy(plain=True)])
    before = [type(model) for model in models]
    advice = "call accelerate before what wraps modules, such as fully_shard or parametrize"
    assert reasons(models) == [
        f"Derived is a subclass of Toy: {advice}",
        f"ParametrizedToy is a subclass of Toy: {advice}",
        "forward is set on the module itself",
        "it is plain",
    ]
    assert [type(model) for model in models] == before


def test_a_replaced_module_can_be_wrapped_but_not_restored_then():
    model = nn.Sequential(Toy())
    report = posenc_ext.accelerate(model)
    parametrize.register_parametrization(model[0], "weight", nn.Identity())
    assert posenc_ext.accelerate(model) == report
    with pytest.raises(ValueError, match=r"must not have been wrapped .*, got ParametrizedToy for '0'"):
        posenc_ext.restore(model)
    parametrize.remove_parametrizations(model[0], "weight")
    posenc_ext.restore(model)
    assert type(model[0]) is Toy


def test_only_some_classes_are_replaced():
    library = __name__.partition(".")[0]
    for only, count in [("Toy", 1), (library, 1), ([f"{library}.Toy"], 1), ("Other", 0), ([], 0), ("To", 0)]:
        model = Toy()
        assert len(posenc_ext.accelerate(model, only=only).replaced) == count
        assert type(model) is (FastToy if count else Toy)


def test_strict_raises_where_nothing_matched():
    with pytest.raises(ValueError, match="nothing was replaced for any known class"):
        posenc_ext.accelerate(nn.ReLU(), strict=True)
    model = Toy()
    with pytest.raises(ValueError, match=r"nothing was replaced for 'Other', 'timm'\nmodule"):
        posenc_ext.accelerate(model, only=["Toy", "Other", "timm"], strict=True)
    assert type(model) is Toy
    for _ in range(2):
        assert len(posenc_ext.accelerate(model, only="Toy", strict=True).replaced) == 1


def test_a_copy_is_of_the_same_class():
    model = Toy()
    posenc_ext.accelerate(model)
    assert type(copy.deepcopy(model)) is FastToy
    assert repr(model) == "Toy()"


def test_a_library_in_which_a_class_is_missing_is_skipped(monkeypatch):
    def fail(name):
        raise AttributeError("no such class")

    monkeypatch.setattr(integrations.importlib, "import_module", fail)
    monkeypatch.setattr(integrations, "LIBRARIES", (Toy.__module__,))
    expected = f"posenc_ext does not know this version of {Toy.__module__}: AttributeError('no such class')"
    assert posenc_ext.accelerate(Other()).rows[0] == ("", Toy.__module__, "", expected)


def test_no_library_is_imported_for_a_model_without_it(tmp_path):
    code = (
        "import sys, torch, posenc_ext; posenc_ext.accelerate(torch.nn.Linear(2, 2)); "
        "print({name.partition('.')[0] for name in sys.modules} & set(posenc_ext.integrations.LIBRARIES))"
    )
    run = [sys.executable, "-c", code]
    run = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout == "set()\n"
