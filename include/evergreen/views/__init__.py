"""What people are shown of a use case: one module per page, plain values out, nothing written.

Every view is a function of the tables, the receipts and the ledger; it is remembered until one of
those that it reads has changed. None of it decides anything: what is decided elsewhere is read.
"""
