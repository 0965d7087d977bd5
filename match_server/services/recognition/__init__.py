"""Who is this? Templates, searches, candidates, and the policy that decides."""
