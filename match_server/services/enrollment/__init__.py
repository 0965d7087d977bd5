"""Collections, persons, groups, references and calibrations."""
