"""The few things every package needs: errors, outputs and atomic publishing, locks, logging, the command-line frame.

Kept free of heavy imports, so that `xec --help` stays instant: `documents`, which reads JSON and YAML into models, is
imported by name. It imports nothing of ours; what is added here must be wanted by three packages at least.
"""

from shards.base.cores import Neighbours, free_cores
from shards.base.errors import ConfigError, CorruptError, InputError, LockedError, OutputError, XecError, nearest
from shards.base.lock import locked
from shards.base.log import counted, duration_text, printable, progress, setup_logging, size_text
from shards.base.memory import keep_freed_memory
from shards.base.outputs import local_path, output_errors, output_file, output_folder
from shards.base.publish import publish_json, publish_text, published, remove_abandoned, sync_directory
from shards.base.version import code_version, package_version

__all__ = [
    "ConfigError",
    "CorruptError",
    "InputError",
    "LockedError",
    "Neighbours",
    "OutputError",
    "XecError",
    "code_version",
    "counted",
    "duration_text",
    "free_cores",
    "keep_freed_memory",
    "local_path",
    "locked",
    "nearest",
    "output_errors",
    "output_file",
    "output_folder",
    "package_version",
    "printable",
    "progress",
    "publish_json",
    "publish_text",
    "published",
    "remove_abandoned",
    "setup_logging",
    "size_text",
    "sync_directory",
]
