"""Scores on request: from the online store, by the versions that the ledger names."""
