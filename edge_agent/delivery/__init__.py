"""Delivery of probes to the server, over HTTP or MQTT."""
