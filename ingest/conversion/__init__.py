"""ROOT to shards: plan, prepare, bucket, sort, finish; bounded memory, resumable, the same bytes however it ran.

What changes the bytes is an option, recorded in the manifest. Imports `ingest.reading` and `shards`.
"""
