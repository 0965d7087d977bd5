"""Processes: what is started by systemd or by a person, and how it ends."""
