"""Optimised norm-conserving Vanderbilt pseudopotentials, generated for the functional in use."""
