"""What the law and a careful owner ask for: keys, limits, audit, retention, erasure."""
