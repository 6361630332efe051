"""One module a command: parses, calls, prints. The only place that imports inside functions, which keeps `--help` fast.

Option types that commands share are in `options`; a new command is mounted in `xec.py`.
"""
