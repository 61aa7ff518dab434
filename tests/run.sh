#!/usr/bin/env bash
# Sets up, checks and tests everything. Words that follow go to pytest: bash tests/run.sh tests/model -x
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch/setup.sh"
bash tests/check.sh
exec python -m pytest "$@"
