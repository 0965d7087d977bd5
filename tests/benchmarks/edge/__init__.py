"""`./dev bench edge`: the cost of a camera, and the gain by best shots and fusion."""
