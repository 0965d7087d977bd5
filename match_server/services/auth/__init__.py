"""API keys, rate limits and page sessions."""
