"""A report never goes into what it is made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.trained import Trained

from shards.base import OutputError

EVALUATION = ("evaluate", "dead", "lines", "calibrate")


@pytest.mark.parametrize("command", [*EVALUATION, "compare", "compare_data", "channels"])
def test_a_run_a_dataset_and_a_folder_of_inputs_are_no_place_for_a_report(
    trained: Trained, run_command: Callable[..., str], command: str
) -> None:
    model, data = trained.inpaint if command == "compare" else trained.regress, trained.data
    arguments = {
        "dead": (model, data, "--dead-fraction", 0.03),
        "compare": ("inpainters", model, "--data", data),
        "compare_data": (data, "--against", trained.train),
        "channels": (data,),
        "lines": (model, data, "--energy", 52.8),
        "calibrate": (model, data, "--line", 52.8),
    }.get(command, (model, data))
    for place in (data, trained.folder, *([model] if model in arguments else [])):
        before = sorted(place.rglob("*"))
        with pytest.raises(OutputError, match=r"(is|holds) an input of this command.*; choose another output"):
            run_command(f"xectrain.cli.{command}:app", *arguments, "--out", place)
        assert sorted(place.rglob("*")) == before
