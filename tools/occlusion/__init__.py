"""How the weights of the occlusion network were made; not installed with Muster."""
