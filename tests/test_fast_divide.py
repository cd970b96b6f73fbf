"""Division by multiplication, which CUDA kernels use: right for every divisor and number below 2^32."""

import native


def test_quotients_are_those_of_the_processor():
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-Icsrc"]
    done = native.run(native.build("fast_divide", ["tests/cpp/fast_divide.cpp"], flags))
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split()[0]) > 10**7, f"too few numbers: {done.stdout}"
