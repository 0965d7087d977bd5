"""The outbox: probes wait on disk until the server has confirmed them."""
