"""The Kohn-Sham core: plane waves in torch, in Hartree atomic units. It does not depend on ASE or read files."""
