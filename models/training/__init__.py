"""How our own weights were made: never imported at run time, not part of the wheel."""
