"""What is done with whole datasets: merge, split, describe. Each gives the bytes that a conversion would have given.

A new operation is a module here and a command in `shards.cli`. Imports all of `shards`; nothing there imports this.
"""
