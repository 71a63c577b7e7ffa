"""All of Feast: definitions, training sets, online values."""
