"""Fleet management: health reports, configurations from the server, enrollment, model packs."""
