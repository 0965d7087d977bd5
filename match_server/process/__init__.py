"""The processes of the server: preparing, starting, serving and ending."""
