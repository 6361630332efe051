import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import STANDARD, events

from shards import geometry as geo
from shards.base import ConfigError
from shards.normalization import preset, valid
from xectrain.config.sensors import MaskingConfig
from xectrain.modes.masking import MASK_KINDS, Masker, MaskInput, event_key, lowest, mix, uniform

FACES = {face: torch.from_numpy(geo.face_channels(face).astype(np.int64)) for face in geo.FACE_NAMES}


def batch(count: int = 6, seed: int = 0, dead: float = 0.05, **changes: torch.Tensor) -> MaskInput:
    x = events(count, seed, dead=dead)
    npho_valid, time_valid = valid(x, STANDARD)
    fields = {"run_B": torch.full((count,), 300123), "event_B": torch.arange(count) + 10, **changes}
    return MaskInput(x, npho_valid, time_valid, **fields)


def masker(seed: int = 1, ratio: float | dict[str, float] = 0.6, **options: object) -> Masker:
    patterns = options.pop("pattern_table", None)
    assert patterns is None or isinstance(patterns, torch.Tensor)
    return Masker(MaskingConfig.model_validate(options), ratio, STANDARD, seed, patterns)


@pytest.mark.parametrize("maskable", ["npho", "time"])
def test_exactly_the_fraction_of_the_eligible_sensors_is_hidden(maskable: str) -> None:
    data = batch()
    hidden = masker(maskable=maskable).draw(data, 0).hidden_BN
    eligible = data.npho_valid_BN & (data.time_valid_BN | (maskable == "npho"))
    assert not (hidden & ~eligible).any()
    assert hidden.sum(dim=1).tolist() == [int(np.floor(0.6 * n)) for n in eligible.sum(dim=1).tolist()]


def test_masks_are_a_function_of_seed_epoch_run_and_event_alone() -> None:
    data = batch()
    draw = masker().draw(data, 3).hidden_BN
    order = torch.tensor([4, 1, 5])
    part = MaskInput(
        *(getattr(data, f)[order] for f in ("x_BN2", "npho_valid_BN", "time_valid_BN", "run_B", "event_B"))
    )
    assert torch.equal(masker().draw(part, 3).hidden_BN, draw[order])
    assert torch.equal(masker().draw(data, 3).hidden_BN, draw)
    torch.manual_seed(99)
    assert torch.equal(masker().draw(data, 3).hidden_BN, draw)
    for other in (
        masker().draw(data, 4),
        masker(seed=2).draw(data, 3),
        masker().draw(batch(run_B=torch.full((6,), 300124)), 3),
        masker().draw(batch(event_B=torch.arange(6) + 11), 3),
        masker().draw(data, None),
    ):
        assert 0.4 < (other.hidden_BN == draw).float().mean() < 0.65


def test_validation_masks_are_the_same_in_every_epoch_and_for_every_normalization() -> None:
    data = batch()
    sqrt = preset("sqrt")
    other = Masker(MaskingConfig(), 0.6, sqrt, 1)
    assert torch.equal(masker().draw(data, None).hidden_BN, other.draw(data, None).hidden_BN)
    assert (masker().draw(data, 0).hidden_BN != masker().draw(data, None).hidden_BN).any()


def test_the_hash_is_fixed_for_ever() -> None:
    """SplitMix64's first output for the state 0 is a published number; so masks are the same on any machine."""
    assert int(mix(torch.tensor(0x9E3779B97F4A7C15 - (1 << 64)))) == 0xE220A8397B1DCDAF - (1 << 64)
    key = event_key(1, 0, torch.tensor([300123]), torch.tensor([7]))
    assert key.tolist() == [-5732309137456907538]


def test_the_uniform_numbers_are_uniform_and_independent() -> None:
    key = event_key(0, 0, torch.zeros(200, dtype=torch.int64), torch.arange(200))
    numbers = uniform(key, 1, 500)
    assert ((numbers > 0) & (numbers < 1)).all()
    counts = torch.histc(numbers.float(), 20, 0, 1)
    assert ((counts - 5000).abs() < 5 * 5000**0.5).all()
    centred = numbers - 0.5
    assert abs(float((centred[:, 1:] * centred[:, :-1]).mean())) < 5 / 12 / 1e5**0.5
    assert abs(float((centred[1:] * centred[:-1]).mean())) < 5 / 12 / 1e5**0.5


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_lowest_takes_exactly_so_many_even_with_equal_scores(data: st.DataObject) -> None:
    scores = torch.tensor([data.draw(st.lists(st.integers(0, 3), min_size=12, max_size=12))]).double()
    eligible = torch.tensor([data.draw(st.lists(st.booleans(), min_size=12, max_size=12))])
    count = data.draw(st.integers(0, int(eligible.sum())))
    mask = lowest(scores, eligible, torch.tensor([count]))
    assert int(mask.sum()) == count
    assert not (mask & ~eligible).any()
    if 0 < count < int(eligible.sum()):
        assert scores[mask].max() <= scores[eligible & ~mask].min()


def test_every_sensor_is_hidden_equally_often() -> None:
    count = 400
    data = batch(count, dead=0.0)
    often = masker(ratio=0.25).draw(data, 0).hidden_BN.float().mean(dim=0)
    assert float((often - 0.25).abs().max()) < 6 * (0.25 * 0.75 / count) ** 0.5


def test_ratios_and_numbers_by_face() -> None:
    data = batch()
    by_face = masker(ratio={"inner": 0.5, "top": 0.1}).draw(data, 0).hidden_BN
    fixed = masker(kind="fixed", counts={"inner": 10, "other": 1, "top": 200}).draw(data, 0).hidden_BN
    for face, channels in FACES.items():
        n = data.npho_valid_BN[:, channels].sum(dim=1)
        ratio = {"inner": 0.5, "top": 0.1}.get(face, 0.0)
        assert by_face[:, channels].sum(dim=1).tolist() == [int(ratio * k) for k in n.tolist()]
        expected = {"inner": [10] * 6, "top": n.tolist()}.get(face, [1] * 6)
        assert fixed[:, channels].sum(dim=1).tolist() == expected


def test_a_time_bias_prefers_bright_sensors() -> None:
    data = batch(40)
    photons = STANDARD.inverse_npho(data.x_BN2[..., 0])
    brightness = [
        float(photons[masker(ratio=0.1, time_mask_bias=bias).draw(data, 0).hidden_BN].mean())
        for bias in (0.0, 0.5, 1.0)
    ]
    assert brightness[0] < 0.7 * brightness[1] < 0.7 * brightness[2]


def test_flat_masks_are_spread_evenly_over_log_photons() -> None:
    data = batch(60, dead=0.0)
    photons = STANDARD.inverse_npho(data.x_BN2[..., 0]).clamp(min=1)
    hidden = masker(ratio=0.05, kind="flat").draw(data, 0).hidden_BN
    plain = masker(ratio=0.05).draw(data, 0).hidden_BN
    assert hidden.sum(dim=1).tolist() == plain.sum(dim=1).tolist()
    spread = [torch.histc(photons[m].log10(), 6, 0.25, 3.25) for m in (hidden, plain)]
    flatness = [float(s.max() / s.min()) for s in spread]
    assert flatness[0] < 1.7 < 2.5 < flatness[1]


def test_patterns_are_taken_whole_and_only_where_something_is_alive() -> None:
    table = torch.zeros(2, 4760, dtype=torch.bool)
    table[0, 100:130] = True
    table[1, 4200:4260] = True
    data = batch(30)
    hidden = masker(kind="pattern", patterns=("a", "b"), pattern_table=table).draw(data, 0).hidden_BN
    taken = []
    for event in range(30):
        matches = [i for i in range(2) if torch.equal(hidden[event], table[i] & data.npho_valid_BN[event])]
        taken += matches
    assert len(taken) == 30
    assert set(taken) == {0, 1}
    with pytest.raises(ConfigError, match="need dead-channel patterns"):
        masker(kind="pattern", patterns=("a",))


def test_sensors_in_front_of_a_shallow_interaction_are_hidden() -> None:
    positions = geo.uvw_from_xyz(geo.nominal().positions[:4092])
    uvw = torch.zeros(6, 3)
    for event, channel in enumerate((0, 1000, 2000, 3000, 4000)):
        uvw[event] = torch.from_numpy(positions[channel]).float() + torch.tensor([0.3, -0.4, 0.5])
    uvw[3, 2] = 1.5  # too deep
    uvw[4, 0] += 0.4  # beside it
    uvw[5] = float("nan")
    hidden = masker(kind="sensor_front").draw(batch(6, dead=0.0, uvw_B3=uvw), 0).hidden_BN
    assert [h.nonzero().flatten().tolist() for h in hidden] == [[0], [1000], [2000], [], [], []]
    with pytest.raises(ConfigError, match=r"need the first interaction .expected truth columns u, v, w."):
        masker(kind="sensor_front").draw(batch(), 0)


def test_a_mixture_makes_each_event_one_of_its_kinds() -> None:
    data = batch(200, dead=0.0)
    options = {"kind": "mixture", "mixture": {"fixed": 3.0, "random": 1.0}, "counts": {"inner": 7}}
    drawn = masker(ratio=0.01, **options).draw(data, 0)
    fixed = drawn.kind_B == MASK_KINDS.index("fixed")
    assert set(drawn.kind_B.tolist()) == {MASK_KINDS.index("fixed"), MASK_KINDS.index("random")}
    assert 0.62 < float(fixed.float().mean()) < 0.88
    assert (drawn.hidden_BN[fixed].sum(dim=1) == 7).all()
    assert (drawn.hidden_BN[~fixed].sum(dim=1) == 47).all()
