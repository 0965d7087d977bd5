"""Measures face models on an operator's own pictures: similarities, error rates, a calibration.

Terms as in ISO/IEC 19795-1: FMR and FNMR of comparisons, FPIR and FNIR of identifications.
"""
