"""Wire messages, version 1: what device and server exchange over MQTT and HTTP."""
