"""Everything that makes shards: ROOT reading, schemas, bad values and dead channels, the global shuffle, conversion.

`ingest.reading.rootio` reads ROOT files as chunks of arrays and is used by inference and the event display as well;
`ingest.conversion.convert` turns many files into one dataset; `ingest.toymc` makes events where there are none.
Of this project it imports `shards` only.
"""
