#!/bin/sh
# Make the environment of benchmarks/training_step.py --peers: voxelmorph 0.3 and MONAI in PyTorch.
# The book does not use it.
#
#     sh benchmarks/peers.sh FOLDER
#     PYTHON=python3.12 sh benchmarks/peers.sh FOLDER
#
# On Linux, pip may choose a PyTorch with libraries for GPUs (some GB). Configure pip beforehand to
# find a PyTorch for CPUs, if you want to save this space.
set -eu
test $# = 1 || { echo "ERROR: found $# arguments, expected the folder of the environment: sh benchmarks/peers.sh FOLDER" >&2; exit 2; }
test ! -e "$1" || { echo "ERROR: $1 exists already; name a new folder, or remove it first" >&2; exit 2; }
"${PYTHON:-python3}" -m venv "$1"
"$1/bin/python" -m pip install --disable-pip-version-check --quiet \
    torch==2.13.0 \
    voxelmorph==0.3.4 \
    neurite==0.3.4 \
    monai==1.6.1 \
    numpy==2.4.6 \
    scipy==1.17.1
"$1/bin/python" -W ignore -c 'import monai, neurite, torch, voxelmorph'
echo "The networks in PyTorch: python benchmarks/training_step.py --peers $1"
