"""The few things every package needs: the error family, atomic publishing, locks, logging, and the command-line frame.

Kept free of heavy imports, so that `xec --help` stays instant.
"""

from shards.base.errors import ConfigError, CorruptError, InputError, LockedError, OutputError, XecError, nearest
from shards.base.lock import locked
from shards.base.log import progress, setup_logging
from shards.base.memory import keep_freed_memory
from shards.base.publish import publish_json, publish_text, published, remove_abandoned, sync_directory
from shards.base.version import code_version, package_version

__all__ = [
    "ConfigError",
    "CorruptError",
    "InputError",
    "LockedError",
    "OutputError",
    "XecError",
    "code_version",
    "keep_freed_memory",
    "locked",
    "nearest",
    "package_version",
    "progress",
    "publish_json",
    "publish_text",
    "published",
    "remove_abandoned",
    "setup_logging",
    "sync_directory",
]
