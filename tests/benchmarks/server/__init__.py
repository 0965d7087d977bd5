"""`./dev bench server`: requests a second through a real server, alone or beside its peers."""
