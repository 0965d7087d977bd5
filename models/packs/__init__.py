"""Model packs: their manifest, download, verification and installation."""
