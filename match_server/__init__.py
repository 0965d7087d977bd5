"""The match server: enrollment, storage and the 1:N search."""
