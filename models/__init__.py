"""Face models: a picture goes in, typed values come out."""
