"""Where photos and thumbnails lie, and how they are encrypted."""
