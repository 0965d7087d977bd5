"""Measures correct and wrong identifications on a folder of labelled pictures."""
