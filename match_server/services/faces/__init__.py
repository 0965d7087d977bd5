"""Face models: pictures in, faces and their templates out."""
