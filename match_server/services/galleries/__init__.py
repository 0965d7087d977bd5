"""The galleries of one process, kept up to date from the change feed."""
