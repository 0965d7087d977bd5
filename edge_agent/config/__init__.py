"""Settings of the agent, its cameras and its secrets."""
