"""The face models of each collection, and how they are changed for others."""
