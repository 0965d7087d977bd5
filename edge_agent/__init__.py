"""The edge agent: from a camera to probes, on a small box."""
