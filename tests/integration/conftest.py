"""These need databases."""

from embedded import begin_with, home, migrated, postgres_server
