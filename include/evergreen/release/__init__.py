"""Who is in charge: the gate, the ledger, and the alias that follows it."""
