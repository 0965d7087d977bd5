"""The box as one of many: how it is, what it is told to run with, and how it got here."""
