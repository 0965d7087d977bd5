"""Who is enrolled: collections, persons, groups, and the roads by which references come in."""
