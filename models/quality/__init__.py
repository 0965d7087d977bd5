"""Face quality: pose, eyes, liveness, and the score made of all factors."""
