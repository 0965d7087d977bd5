"""From frames to probes: face search, tracks, best shots, templates."""
