#!/bin/sh
# Install what tests/slurm boots (Debian, Ubuntu; as root; about 13 MB). Starts nothing.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins
