"""A catalog elsewhere, where a test asks for one."""

from rest_catalog import catalog_elsewhere
