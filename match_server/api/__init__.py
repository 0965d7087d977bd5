"""HTTP: endpoints declared once, and from the declaration parsed, answered and documented."""
