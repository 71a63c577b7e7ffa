"""What was made of what: receipts, staging, staleness, replay."""
