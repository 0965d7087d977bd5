"""Calibrations: thresholds for error rates, and likelihood ratios for similarities."""
