#!/usr/bin/env bash
# Runs README's Install block, word for word, in fresh environments of several versions of Python and torch.
#   tools/install_matrix.sh PYTHON... -- TORCH...     such as: python3.10 python3.13 -- 2.10 2.14
# Each works in a copy of this checkout's files. Prints a line per environment; fails if one fails.
#   MAKE_ENVIRONMENT    a command in place of venv and pip; it is given Python, torch's version and the folder to make
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
pythons=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  pythons+=("$1")
  shift
done
[ $# -gt 1 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
shift

environment() { # Python, torch's version, folder
  "$1" -m venv "$3" && "$3/bin/python" -m pip install --quiet "torch==$2.*"
}

block() { # the first fenced block of README's section Install
  awk '/^## / { here = $2 == "Install" } here && /^```/ { fences++; next } here && fences == 1' "$root/README.md"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{ echo 'set -ex'; block; } >"$work/block"
failed=0
for python in "${pythons[@]}"; do
  for version in "$@"; do
    start=$SECONDS
    rm -rf "$work/venv" "$work/posenc_ext" && mkdir "$work/posenc_ext"
    git -C "$root" ls-files -z | tar -C "$root" --null -T - -cf - | tar -C "$work/posenc_ext" -xf -
    if ${MAKE_ENVIRONMENT:-environment} "$python" "$version" "$work/venv" >"$work/log" 2>&1 &&
      (cd "$work/posenc_ext" && PATH=$work/venv/bin:$PATH bash "$work/block") >>"$work/log" 2>&1; then
      result="ok, built for torch $(sed -n 's/^built for torch *//p' "$work/log")"
    else
      result="FAILED: $(tail -n 1 "$work/log")" failed=1
    fi
    echo "$($python --version), torch $version: $result, $((SECONDS - start)) s"
  done
done
exit $failed
