"""Take one entity out of everything that was stored of it, and prove that it is gone.

See docs/erasure.md for every place, and docs/adr/0034-erasure.md for the reasons.
"""
