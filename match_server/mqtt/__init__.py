"""MQTT: takes probes and reports, publishes events."""
