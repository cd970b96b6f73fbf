"""Settings and fixtures of every test."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "posenc_ext", deadline=None, derandomize=True, max_examples=60, database=None
)
hypothesis.settings.load_profile("posenc_ext")


@pytest.fixture(autouse=True)
def settings():
    """The same random numbers for every test, and no test's global settings left to the next one."""
    torch.manual_seed(0)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
