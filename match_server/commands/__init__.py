"""The commands of `match-server`, a file for each subject."""
