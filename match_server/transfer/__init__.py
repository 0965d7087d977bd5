"""A whole server in one file: written by `match-server export`, read by `match-server import`.

The file (docs/decisions/0011-postgresql-and-moving.md): a line of magic, a line of JSON that says
how it is protected, then sealed chunks (`container`). In the chunks lie records: what the file
holds, the rows of every table in the order of their references (`rows`), the numbers that each
table has given out, the kept photos and snapshots (`places`), and the sums of it all.
"""
