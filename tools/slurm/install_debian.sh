#!/bin/sh
# Installs what `make test-cluster` needs on Debian or Ubuntu, as root: Slurm's daemons and clients, and munge.
# The tests start their own daemons on free ports; nothing is configured or started here.
set -eu
apt-get update
apt-get install --yes --no-install-recommends slurmctld slurmd slurm-client munge
