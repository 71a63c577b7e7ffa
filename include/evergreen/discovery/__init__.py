"""Features that nobody has declared yet: generated from the contract, tried, and proposed."""
