"""The roads from the outbox to the server: HTTP and MQTT, behind one protocol."""
