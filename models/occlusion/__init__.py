"""How much of a face is covered, and which parts of it: our own small network and its regions."""
