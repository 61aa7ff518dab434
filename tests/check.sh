#!/usr/bin/env bash
# Format, lint and types: the same for people and for CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ruff format --check .
ruff check .
mypy --strict conf parallel model train launch
python -m conf.reference --check
