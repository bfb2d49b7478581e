"""Fuzz targets, with a corpus; `make fuzz` runs them under the sanitizers."""
