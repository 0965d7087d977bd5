"""The audit log: writing it as a chain, reading, verifying and pruning it."""
