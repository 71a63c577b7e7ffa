"""Evergreen: batch machine learning that stays right."""
