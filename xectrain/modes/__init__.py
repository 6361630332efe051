"""The training modes. A mode is small: its network, what it hides, its loss and metrics; everything else is shared.

`MODES` is the one table of them, and nothing outside this room compares a mode's name. Change here: what is learned,
the losses, the masks. May import `models`, `metrics` and what lies below; the table itself imports no torch.
"""

from xectrain.modes.table import MODES, ModeEntry, find_mode, load_config

__all__ = ["MODES", "ModeEntry", "find_mode", "load_config"]
