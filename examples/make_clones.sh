#!/bin/sh
# Makes the clones of PBE and r2SCAN that the package ships, in the folder given (default: models), and pins them.
# Run it in the repository with the package installed by `pip install -e .`: elsewhere these names are taken. About an
# hour on one core. docs/cloning.md tells what is done, and benchmarks/clone_fidelity.py how good they are.
set -eu
root=${1:-models}
points=$(mktemp -d)
trap 'rm -rf "$points"' EXIT

clone() { nnxc clone "$@" --seeds 3 --root "$root"; }
clone PBE --name pbe-clone --samples "$points/pbe.npz" --points 12000
clone PBE --name pbe-clone-mlp --network mlp --samples "$points/pbe.npz" --points 12000
clone r2SCAN --name r2scan-clone --samples "$points/r2scan.npz" --points 20000 --steps 120
clone r2SCAN --name r2scan-clone-mlp --network mlp --samples "$points/r2scan.npz" --points 20000 --steps 100 --quick
nnxc models pin "$root"
