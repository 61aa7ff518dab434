#!/usr/bin/env bash
# Makes .venv with what requirements.txt names, or keeps the one that has it. Sourced by quickstart.sh and tests/run.sh.
# TORCH= takes another torch, from 2.9 on: a requirement such as TORCH='torch==2.11.0', a wheel's path, or TORCH=installed
# for the one that this Python has already (from a cluster's module or a container). llmcompressor, which few need, takes
# some versions of torch only, and pip would replace any other: then it is left out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

torch=${TORCH:-$(grep '^torch==' requirements.txt)}
[[ $torch == installed ]] && site=--system-site-packages || site=
packages=$(grep -Ev "^torch==${TORCH:+|^llmcompressor>}" requirements.txt; [[ $site ]] || echo "$torch")
wanted=$(cksum <<< "$packages")
if [[ "$(cat .venv/requirements.cksum 2>/dev/null)" == "$wanted" ]]; then
    echo "packages: .venv has them"
else
    python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "error: Python 3.11 or newer is needed; $python is $("$python" --version 2>&1 || true). Set PYTHON=..." >&2
        exit 2
    fi
    if ! command -v "${CXX:-c++}" >/dev/null; then
        echo "error: a C++ compiler is needed (Debian: apt install g++); set CXX=... if it has another name" >&2
        exit 2
    fi
    echo "packages: installing requirements.txt into .venv"
    if [[ $site ]] && ! "$python" -c 'import torch' 2>/dev/null; then
        echo "error: TORCH=installed, and $python has no torch; load the cluster's module first, or set PYTHON=..." >&2
        exit 2
    fi
    base=$("$python" -c 'import sys; print(sys.base_prefix, sys.version)')
    [[ "$(cat .venv/made_by 2>/dev/null)" == "$base" ]] && clear= || clear=--clear  # two Pythons in one break it
    "$python" -m venv $clear $site .venv
    echo "$base" > .venv/made_by
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r <(echo "$packages")
    echo "$wanted" > .venv/requirements.cksum
fi
export PATH="$PWD/.venv/bin:$PATH"
