"""Looking before converting: what is in files, what a schema makes of it, and in which state the values are.

`inspect` finds out, `report` says it. Imports `ingest.reading` and `shards`.
"""
