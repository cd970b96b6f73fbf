"""The exp of softmax: its bits at every CPU level, and its error, for every float32 that it is made for."""

import re

import native
from test_determinism import levels

VECTOR_BYTES = {"baseline": 16, "avx2": 32, "avx512": 64}


def said(level: str, *arguments: str) -> str:
    # The machine's own fused multiply-add at the baseline too, which billions of values need: it rounds like
    # the function that the baseline calls.
    flags = ["-std=c++20", "-O3", "-march=native", "-ffp-contract=off", "-Wall", "-Wextra", "-Icsrc"]
    flags += ["-pthread", f"-DPOSENC_LEVEL={level}", f"-DPOSENC_VECTOR_BYTES={VECTOR_BYTES[level]}"]
    done = native.run(native.build(f"exp_{level}", ["tests/cpp/exp.cpp"], flags), "2", *arguments)
    assert done.returncode == 0, "\n".join(done.stdout.splitlines()[-5:])
    return done.stdout


def test_every_float32_has_the_same_exp_at_every_level_and_within_the_stated_error():
    hashes = {}
    for level in levels():
        text = said(level, *["errors"] * (level == levels()[-1]))
        hashes[level] = re.findall(r"^(?:2\^|float64 ).*", text, re.MULTILINE)
        assert len(hashes[level]) == 255 + 1
    for level in levels():
        assert hashes[level] == hashes["baseline"], level
