"""The Kohn-Sham core: plane waves in torch, Hartree atomic units; knows nothing of ASE, files or names."""
