"""The gallery's 1:N search beside its peers, in one run."""
