"""The page of checks and pictures of the toy Monte Carlo, and the limits that its physics sets.

A new check compares an ingredient with an independent computation. Imports `ingest.toymc` and `shards`.
"""
