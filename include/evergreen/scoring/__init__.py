"""Scores of one day: one row per entity, ranked over the whole day."""
