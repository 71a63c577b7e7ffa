"""Deployment, status, backups, and the services of one machine."""
