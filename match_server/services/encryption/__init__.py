"""Encryption at rest: vault, secrets, key rotation."""
