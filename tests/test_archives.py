"""What earlier versions saved still loads and computes the same: docs/policy.md.

After a release: python tools/save_archive.py
"""

import io
from pathlib import Path

import machinery
import pytest
import torch
from everything import values_and_gradients
from support import each

from posenc_ext import __version__

FOLDER = Path(__file__).with_name("archives")
ARCHIVES = sorted(FOLDER.glob("*.pt"))
ROWS = {row.name: row for row in machinery.ROWS}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit"),  # TorchScript is deprecated, and in use
    # A scripted module keeps no metadata.
    pytest.mark.filterwarnings("ignore:.*has no record of its grid"),
]


def load(path):
    files = {"expected": ""}
    archive = torch.jit.load(path, _extra_files=files)
    return archive, torch.load(io.BytesIO(files["expected"]))


def names(path: Path) -> str:
    return path.name


def test_this_version_has_an_archive():
    assert f"{__version__}.pt" in [path.name for path in ARCHIVES]


@each("path", ARCHIVES, ids=map(names, ARCHIVES))
def test_saved_modules_compute_what_they_computed(path):
    archive, expected = load(path)
    values = expected.pop("everything")["values"]
    torch.testing.assert_close(values_and_gradients(archive.everything), values)
    for name, saved in expected.items():
        actual = machinery.run(getattr(archive, name), saved["x"])
        machinery.compare(actual, saved["values"], rtol=1e-5, atol=1e-6)


@each("path", ARCHIVES, ids=map(names, ARCHIVES))
def test_checkpoints_load_into_the_modules_of_today(path):
    archive, expected = load(path)
    for name, saved in expected.items():
        if row := ROWS.get(saved.get("row")):
            model = row.model(seed=5)
            model.load_state_dict(getattr(archive, name).state_dict())
            machinery.compare(machinery.run(model, saved["x"]), saved["values"], rtol=1e-5, atol=1e-6)


def parts(schema: str) -> tuple[list[str], list[str], str]:
    """Positional arguments, arguments by name, returns."""
    arguments, returns = schema.partition("(")[2].rsplit(") -> ", 1)
    positional, _, named = arguments.partition("*, ")
    return [a for a in positional.split(", ") if a], [a for a in named.split(", ") if a], returns


def extends(new: str, old: str) -> bool:
    """Whether every call of the old schema means the same with the new one, which may have more defaults."""
    positional, named, returns = parts(old)
    new_positional, new_named, new_returns = parts(new)
    added = new_positional[len(positional) :] + [a for a in new_named if a not in named]
    return (
        new_positional[: len(positional)] == positional
        and set(named) <= set(new_named)
        and all("=" in argument for argument in added)
        and new_returns == returns
    )


def test_an_extension_is_told_from_a_change():
    old = "op(Tensor x, int n=1, *, float scale=1.) -> Tensor"
    assert extends(old, old)
    assert extends("op(Tensor x, int n=1, int m=0, *, float scale=1., bool causal=False) -> Tensor", old)
    for new in (
        "op(Tensor x, *, float scale=1.) -> Tensor",  # an argument is lost
        "op(Tensor x, int m=0, int n=1, *, float scale=1.) -> Tensor",  # another order
        "op(Tensor x, int n=2, *, float scale=1.) -> Tensor",  # another default
        "op(Tensor x, int n=1, *, float scale=1., bool causal) -> Tensor",  # a new argument must be passed
        "op(Tensor x, int n=1, *, float factor=1.) -> Tensor",  # another name
        "op(Tensor x, int n=1, *, float scale=1.) -> Tensor[]",
    ):
        assert not extends(new, old), new


SCHEMAS = sorted(FOLDER.glob("*.schemas.txt"))


@each("path", SCHEMAS, ids=map(names, SCHEMAS))
def test_public_schemas_only_grow(path):
    old, now = (
        {line.partition("(")[0]: line for line in file.read_text().splitlines()}
        for file in (path, FOLDER.with_name("schemas.txt"))
    )
    public = [name for name in old if not name.startswith("posenc_ext::_")]
    assert public
    assert [old[name] for name in public if name not in now or not extends(now[name], old[name])] == []
