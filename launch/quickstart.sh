#!/usr/bin/env bash
# Trains a small CodeGen through nl -> multi -> mono on this machine. Further settings can follow: layout.zero_stage=2
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python -m launch experiment=quickstart "$@"
