"""`python -m match_server.gallery`: which kernel scans here, and how fast memory is."""

from shared.gallery.__main__ import main

if __name__ == "__main__":
    main()
