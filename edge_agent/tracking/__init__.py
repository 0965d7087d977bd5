"""From detections to the best shot of each track."""
