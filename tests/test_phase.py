"""The float32 arithmetic of the CUDA kernels, compiled for the host, against wider arithmetic."""

import native
import pytest


def test_float_sinusoids_are_within_an_ulp_everywhere():
    native.BUILD.mkdir(parents=True, exist_ok=True)
    probe = native.BUILD / "quadmath.cpp"
    probe.write_text("#include <quadmath.h>\nint main() { return sinq(0) != 0; }\n")
    if native.run(*native.CXX, probe, "-lquadmath", "-o", native.BUILD / "quadmath").returncode != 0:
        pytest.skip("the C++ compiler has no libquadmath, the judge of exactness")
    # The machine's own fused multiply-add, which a hundred million values need: it rounds like any other.
    flags = ["-std=gnu++20", "-O2", "-march=native", "-ffp-contract=off", "-Wall", "-Wextra", "-Icsrc"]
    done = native.run(native.build("phase", ["tests/cpp/phase.cpp", "-lquadmath"], flags))
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout
    assert done.stdout.count("largest error in ulp") == 27


def test_float_pairs_round_as_their_sum():
    flags = ["-std=c++20", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Icsrc"]
    done = native.run(native.build("float_pair", ["tests/cpp/float_pair.cpp"], flags))
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout
