#!/bin/sh
# Make the clones of PBE and r2SCAN that the package ships, in the given folder (default: models), and pin them.
# Run it in the repository with the package installed by `pip install -e .`; otherwise these names are already in use.
# It takes about an hour on one core. docs/cloning.md describes the method, and benchmarks/clone_fidelity.py measures the
# accuracy.
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
