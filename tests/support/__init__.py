"""Helpers of the tests: servers, devices, cameras, pictures, and what else many tests need."""
