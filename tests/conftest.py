"""Settings and fixtures of every test."""

import os

# Before torch is loaded: on a busy machine threads that spin at a barrier hold up those that they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hypothesis
import pytest
import support

hypothesis.settings.register_profile(
    "posenc_ext", deadline=None, derandomize=True, max_examples=60, database=None
)
hypothesis.settings.load_profile("posenc_ext")


@pytest.fixture(autouse=True)
def _settings():
    with support.settings():
        yield
