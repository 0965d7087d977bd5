"""Settings and secrets of the edge agent."""
