"""Interfaces to other programs and readers of published files."""
