"""One module per command: parses, calls, prints. The only room that imports in functions, which keeps `--help` fast.

Option types that commands share are in `options`; a new command is mounted in `xec.py`.
"""
