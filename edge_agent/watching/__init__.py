"""What is made of frames beside tracking: when to search, what to judge, whom to tell."""
