"""The command `edge-agent`."""
