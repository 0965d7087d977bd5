"""Who is this? Searching, ranking, and the policy that decides."""
