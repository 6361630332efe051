"""ROOT files as chunks of arrays: inputs, schemas, binding, branches, sources. For conversion, inference, display.

A new kind of branch is added in `branches`, a new name of a branch in a file of `schemas`. Imports `shards` only.
"""
