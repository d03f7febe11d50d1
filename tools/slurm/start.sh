#!/usr/bin/env bash
# Start a SLURM cluster on this one machine, for tests: start.sh FOLDER
# It prints the settings with which sbatch, squeue and Snakemake find the cluster. stop.sh FOLDER
# stops the cluster.
#
# The packages slurm-wlm and munge are needed (Debian 12: SLURM 22.05), but systemd is not. Any user
# can start the cluster, and only this user can submit jobs to it. The key, the logs and the state
# are in FOLDER. The ports are chosen among the free ones.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin # folders of the daemons, which the PATH of some users lacks
fail() { echo "ERROR: $*" >&2; exit 1; }

[ $# -eq 1 ] || fail "usage: start.sh FOLDER"
for program in munged slurmctld slurmd sinfo srun; do
  command -v "$program" >/dev/null || fail "no program '$program': apt install slurm-wlm munge"
done
[ ! -e "$1/slurm.conf" ] || fail "$1 already has a cluster; run stop.sh $1"
mkdir -p "$1"
folder=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
[ ${#folder} -le 80 ] || fail "$folder: the path has ${#folder} characters, expected at most 80 \
because of its sockets; use another folder"
chmod 755 "$folder" # munged refuses a folder that others may write to
mkdir -p "$folder/state" "$folder/spool"

# If anything fails from here on, show the logs and stop all daemons.
give_up() {
  tail -n 15 "$folder"/*.log >&2 || true
  "$here/stop.sh" "$folder"
}
ready=
trap '[ -n "$ready" ] || give_up' EXIT

host=$(hostname -s)
ports=$(python3 - <<'PYTHON'
import socket
taken = [socket.socket() for _ in range(2)]
for each in taken:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in taken))
PYTHON
)

cat >"$folder/slurm.conf" <<CONF
ClusterName=book
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=${ports% *}
SlurmdPort=${ports#* }
# Accept no connections from other machines.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# Use no cgroups, because a container may not be allowed to make them.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# Two simulated GPUs: gres.conf names other devices, and a job that asks for a GPU gets its number.
GresTypes=gpu
ReturnToService=2
# Seconds for which squeue shows a job that has ended. Snakemake reads its final state there.
MinJobAge=300
# Cores and memory are simulated, too, so that jobs with the size for a real cluster can run.
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:2
PartitionName=main Nodes=$host Default=YES
PartitionName=gpu Nodes=$host
CONF
printf 'Name=gpu File=%s\n' /dev/null /dev/zero >"$folder/gres.conf"
# The only plugin that has no requirements as long as it is not used.
echo "CgroupPlugin=cgroup/v1" >"$folder/cgroup.conf"

# Before Snakemake calls srun in a job, it removes all SLURM_… variables from the environment. This
# wrapper sets SLURM_CONF again.
mkdir -p "$folder/bin"
printf '#!/bin/sh\nSLURM_CONF="%s" exec "%s" "$@"\n' "$folder/slurm.conf" "$(command -v srun)" \
  >"$folder/bin/srun"
chmod +x "$folder/bin/srun"

(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" \
  --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
export SLURM_CONF=$folder/slurm.conf
slurmctld
slurmd

for _ in $(seq 30); do
  if [ "$(sinfo --noheader --partition=main --format=%T 2>/dev/null)" = idle ]; then
    echo "export SLURM_CONF='$SLURM_CONF' PATH='$folder/bin':\"\$PATH\""
    ready=yes
    exit
  fi
  sleep 1
done
fail "no idle node after 30 s; sinfo says: $(sinfo --Node --long 2>&1 | tail -n 1)"
