#!/usr/bin/env bash
# End the cluster that start.sh made in FOLDER, its jobs with it: stop.sh FOLDER
# The logs stay in FOLDER, the settings go (so that start.sh may use the folder again).
set -euo pipefail

[ $# -eq 1 ] && [ -d "$1" ] || { echo "usage: stop.sh FOLDER (the one given to start.sh)" >&2; exit 1; }
folder=$(cd "$1" && pwd)
if [ -e "$folder/slurm.conf" ]; then
  export SLURM_CONF=$folder/slurm.conf
  timeout 10 scancel --quiet --user="$(id -un)" 2>/dev/null || true
fi
for daemon in slurmd slurmctld munged; do
  file=$folder/$daemon.pid
  [ -e "$file" ] || continue
  process=$(cat "$file")
  # Only a process that is still that daemon: numbers are used again.
  if [ "$(cat "/proc/$process/comm" 2>/dev/null)" = "$daemon" ]; then
    kill "$process"
    for _ in $(seq 50); do
      kill -0 "$process" 2>/dev/null || break
      sleep 0.2
    done
  fi
  rm -f "$file"
done
rm -f "$folder/slurm.conf"
