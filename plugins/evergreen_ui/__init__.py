"""The web application that the plugin mounts: pages, a read-only API, and who may ask."""
