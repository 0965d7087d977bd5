"""The gallery on the device: follows the change feed of the server, and decides without it."""
