"""DuckDB: the one place that opens it, and what the SQL of a use case may not do."""
