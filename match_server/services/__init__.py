"""What the server does, without HTTP: the API, the broker's consumer and the commands call it."""
