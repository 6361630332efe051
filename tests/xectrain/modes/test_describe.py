from collections.abc import Callable

import pytest

from xectrain.modes import load_config
from xectrain.modes.describe import describe_network


def test_the_reference_encoder_is_the_network_of_the_specification() -> None:
    found = {part.name: part for part in describe_network(load_config(assignments=["model.preset=reference"])).parts}
    assert found["encoder"].parameters == 25_743_104
    assert found["encoder.backbone"].parameters == 140_768
    assert found["encoder.hexagonal"].parameters == 403_744
    assert found["encoder.fusion"].parameters + found["encoder.position"].parameters == 25_192_448 + 6 * 1024
    # The pointwise layers alone: two of 4C² a block, two operations each, at every position of every face.
    positions = 92 * 43 + 2 * 23 * 5 + 23 * 14
    assert found["encoder.backbone"].flops > 2 * positions * 2 * 8 * 32 * 32


@pytest.mark.parametrize("mode", ["regress", "mae", "inpaint"])
def test_parts_add_up(mode: str) -> None:
    parts = describe_network(load_config(assignments=[f"mode={mode}", "model.preset=tiny"])).parts
    whole = parts[0]
    top = [part for part in parts if part.depth == 1]
    assert sum(part.parameters for part in top) == whole.parameters
    assert sum(part.flops for part in top) == whole.flops > 0


def test_the_command_prints_parts_and_tokens(run_command: Callable[..., str]) -> None:
    printed = run_command("xectrain.cli.model:app", "describe", "--preset", "reference")
    assert "25,743,104" in printed
    assert "6 tokens of 1024: inner, outer, upstream, downstream, top, bottom" in printed
