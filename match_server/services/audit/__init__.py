"""The audit log: written as a chain, read, verified and pruned."""
