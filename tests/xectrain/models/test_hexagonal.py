import numpy as np
import pytest
import torch

from shards import geometry as geo
from xectrain.models.hexagonal import AttentionHexMixer, HexMixer, HexNeXtBlock

NEAR = {6.12, 7.56}


def adjacency() -> np.ndarray:
    """Which nodes are next to which, from the positions alone: bool (73, 73), a node is not its own neighbour."""
    position = geo.nominal().positions[geo.hexagon("top").nodes]
    distance = np.linalg.norm(position[:, None] - position, axis=-1)
    return (distance > 1) & (distance < 7.7)


def influence(mixer: HexMixer) -> torch.Tensor:
    """How strongly each node's output depends on each node's input: (to, from)."""
    x = torch.randn(1, 73, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = mixer(x, torch.ones(1, 73, 1))
    rows = [torch.autograd.grad(out[0, n].sum(), x, retain_graph=True)[0][0].abs().sum(dim=-1) for n in range(73)]
    return torch.stack(rows)


def test_mixing_reaches_exactly_the_true_neighbours() -> None:
    torch.manual_seed(0)
    expected = adjacency() | np.eye(73, dtype=bool)
    assert expected.sum() == 366 + 73
    np.testing.assert_array_equal(influence(HexMixer(4)).numpy() > 0, expected)


def test_attention_reaches_the_true_neighbours_too() -> None:
    torch.manual_seed(0)
    np.testing.assert_array_equal(influence(AttentionHexMixer(4)).numpy() > 0, adjacency() | np.eye(73, dtype=bool))


def test_each_tap_is_one_direction() -> None:
    graph = geo.hexagon("top")
    mixer = HexMixer(1)
    for tap in range(7):
        with torch.no_grad():
            mixer.weight.zero_()
            mixer.weight[tap] = 1
        read = mixer(torch.arange(1, 74.0)[None, :, None], torch.ones(1, 73, 1))[0, :, 0].detach().numpy()
        expected = np.arange(73) if tap == 0 else graph.neighbours[:, tap - 1]
        np.testing.assert_array_equal(read, expected + 1)  # nodes beyond the rim read as 0


def test_equal_attention_is_the_plain_mixer_inside_the_face() -> None:
    torch.manual_seed(0)
    plain, attentive = HexMixer(5), AttentionHexMixer(5)
    attentive.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        attentive.query.weight.zero_()
    x = torch.randn(2, 73, 5)
    everywhere = torch.ones(2, 73, 1)
    surrounded = (geo.hexagon("top").neighbours >= 0).all(axis=1)
    torch.testing.assert_close(attentive(x, everywhere)[:, surrounded], plain(x, everywhere)[:, surrounded])


@pytest.mark.parametrize("mixer", ["depthwise", "attention"])
def test_a_block_keeps_masked_nodes_at_zero(mixer: str) -> None:
    torch.manual_seed(0)
    keep = (torch.rand(2, 73, 1) > 0.3).float()
    out = HexNeXtBlock(6, mixer)(torch.randn(2, 73, 6) * keep, keep)
    assert (out[keep.expand_as(out) == 0] == 0).all()
    assert (out[keep.expand_as(out) == 1] != 0).all()
