"""Devices: registration, health, configuration, and the galleries that they may hold."""
