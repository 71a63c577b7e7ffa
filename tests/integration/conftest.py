"""These need databases."""

from embedded import apart, begin_with, home, migrated, postgres_server
from object_store import store
