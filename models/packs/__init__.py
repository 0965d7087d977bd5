"""Model packs: what there is, under which licence, how it is fetched, checked and installed."""
