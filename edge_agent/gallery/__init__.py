"""The box's own gallery: follows the server's change feed, and decides when nobody else can."""
