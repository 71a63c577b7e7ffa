"""What may pass: the row split, the expectations, and the record of every validation."""
