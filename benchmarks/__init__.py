"""Measurements: each module is one `make bench-<name>`."""
