"""Equations of state: scans that find their minimum, and their fit."""
