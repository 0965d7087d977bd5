"""Webhooks: events sent to addresses of an administrator."""
