"""Every relative-position scheme: row(q, k), its inverse and its runs agree for all small shapes."""

import native


def test_row_inverse_and_runs_agree():
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-Icsrc"]
    done = native.run(native.build("schemes", ["tests/cpp/schemes.cpp"], flags))
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split()[0]) > 1000, f"too few shapes: {done.stdout}"
