"""What an operator asks of a device: the doctor and the report."""
