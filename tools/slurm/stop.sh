#!/usr/bin/env bash
# Stop the cluster that start.sh made in FOLDER, with its jobs: stop.sh FOLDER
# The logs stay in FOLDER. The settings are removed, so that start.sh can use the folder again.
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
  # Kill the process only if it is still this daemon, because process numbers are reused.
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
