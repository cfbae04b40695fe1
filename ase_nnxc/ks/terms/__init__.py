"""One file for each term of the energy."""
