"""The boxes: who they are, how they are, what they run with and what they may hold."""
