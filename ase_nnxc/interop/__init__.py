"""Programs and files of others."""
