"""Looking before converting: what is in files, what a schema makes of it, and the state of the values.

`inspect` finds out, `report` puts it into words. Imports `ingest.reading` and `shards`.
"""
