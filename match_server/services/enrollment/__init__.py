"""Who is enrolled: collections, persons, groups, references, and batches of them."""
