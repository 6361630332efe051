#!/usr/bin/env bash
# Installs Debian's SLURM, which the tests of `cluster` start on loopback: slurmctld, slurmd and the client commands.
# Nothing is started here: no service, no munge daemon. About 4 MB to download, 13 MB on disk. Without root (or where
# there is no apt-get) it says so and changes nothing; the tests are then skipped with the reason.
set -euo pipefail
have() { PATH="$PATH:/usr/sbin" command -v "$1" >/dev/null; }
if have slurmctld && have slurmd && have sbatch; then
    exit 0
fi
if ! have apt-get || [ "$(id -u)" -ne 0 ]; then
    echo "SLURM is not installed, and can only be installed here by root with apt-get: its tests will be skipped" >&2
    exit 0
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurmctld slurmd slurm-client >/dev/null
