"""`./dev bench edge`: what a camera costs, and what best shots and fusion are worth."""
