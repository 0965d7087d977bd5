"""The demonstration behind `./dev demo`: a server, an agent, two films, and who was in them."""
