"""What clients send and get: one module for each room of the contract."""
