"""Features and labels from SQL over the past, with proofs."""
