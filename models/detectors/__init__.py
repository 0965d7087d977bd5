"""Face detectors: a picture goes in, boxes with scores come out, in pixels of that picture."""
