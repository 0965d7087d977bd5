"""The web page: who is in front of which camera, live."""
