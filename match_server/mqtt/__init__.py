"""The MQTT side of the server: probes and reports in, events out."""
