"""Makes probes of frames: face search, tracks, best shots, templates."""
