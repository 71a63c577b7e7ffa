"""These need databases."""

from embedded import home, migrated, postgres_server
