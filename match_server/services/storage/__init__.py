"""Where photos and thumbnails are stored."""
