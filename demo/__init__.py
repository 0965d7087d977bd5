"""The demonstration `./dev demo`: a server, an agent and two films."""
