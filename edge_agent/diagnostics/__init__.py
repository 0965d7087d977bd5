"""Diagnostics for the operator of a device: the doctor and the report of a run."""
