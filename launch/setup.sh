#!/usr/bin/env bash
# Makes .venv with what requirements.txt names, or keeps the one that has it. Sourced by quickstart.sh and tests/run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wanted=$(cksum < requirements.txt)
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
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    echo "$wanted" > .venv/requirements.cksum
fi
export PATH="$PWD/.venv/bin:$PATH"
