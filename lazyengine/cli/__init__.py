"""Command lines over the package; `tools/` has a thin script for each."""
