"""Backups: the SQL databases, the warehouse and the artifacts in one directory, and back."""
