#!/usr/bin/env bash
# Sets up, checks and tests everything. Words that follow go to pytest: bash tests/run.sh tests/model -x
# On a Debian machine, as root, it installs what some tests need beside Python; without, those tests skip and say why.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch/setup.sh"
bash tests/check.sh

declare -A packages=([sbatch]=slurm-wlm [munged]=munge [sshd]=openssh-server [pdsh]=pdsh [chromium]=chromium [npm]=npm)
missing=()
for program in "${!packages[@]}"; do
    PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
if (( ${#missing[@]} > 0 && EUID == 0 )) && command -v apt-get >/dev/null; then
    echo "packages: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    policy=/usr/sbin/policy-rc.d  # Debian's way to keep a package from starting its service
    [[ -e $policy ]] || { printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod +x "$policy" && trap 'rm -f "$policy"' EXIT; }
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 ||
        echo "packages: apt-get could not; the tests that need them skip" >&2
    [[ $(trap -p EXIT) ]] && rm -f "$policy" && trap - EXIT
fi
(( $# )) || set -- --numprocesses=2 --dist=loadfile  # one process leaves the second core idle for a third of the time
exec python -m pytest "$@"
