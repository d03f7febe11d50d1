#!/usr/bin/env bash
# Start a SLURM cluster of this one machine, for tests: start.sh FOLDER
# Prints the settings that make sbatch, squeue and Snakemake find it; stop.sh FOLDER ends it.
#
# Needs the packages slurm-wlm and munge (Debian 12: SLURM 22.05); no systemd, and any user will do,
# who alone can then submit. Key, logs and state lie in FOLDER; the ports are some that were free.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin # where the daemons are, also for users whose path has neither
fail() { echo "ERROR: $*" >&2; exit 1; }

[ $# -eq 1 ] || fail "usage: start.sh FOLDER"
for program in munged slurmctld slurmd sinfo srun; do
  command -v "$program" >/dev/null || fail "no '$program' here: apt install slurm-wlm munge"
done
[ ! -e "$1/slurm.conf" ] || fail "$1 has a cluster already: stop.sh $1"
mkdir -p "$1"
folder=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
[ ${#folder} -le 80 ] || fail "$folder: a socket's path must be short; use another folder"
chmod 755 "$folder" # munged refuses a folder that others may write to
mkdir -p "$folder/state" "$folder/spool"

# Whatever fails from here on: show why, and leave no daemon behind.
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
# Nobody outside may knock.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# No cgroups: a container may not make any.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# Two GPUs in name only (gres.conf gives them other devices): who asks for one gets a number.
GresTypes=gpu
ReturnToService=2
# squeue shows an ended job that long; Snakemake learns from it how the job ended.
MinJobAge=300
# Cores and memory in name only too, so that jobs sized for a real cluster fit.
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:2
PartitionName=main Nodes=$host Default=YES
PartitionName=gpu Nodes=$host
CONF
printf 'Name=gpu File=%s\n' /dev/null /dev/zero >"$folder/gres.conf"
# The one plugin that asks nothing of the machine while unused.
echo "CgroupPlugin=cgroup/v1" >"$folder/cgroup.conf"

# Snakemake takes every SLURM_… out of the environment before it calls srun in a job; give it back.
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
