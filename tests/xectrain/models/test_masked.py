"""The masked autoencoder and the inpainter: what they see, what they score, what they change."""

from typing import Any

import numpy as np
import pytest
import torch
from support.networks import STANDARD, events, tiny
from torch import Tensor

from ingest.toymc import ToyOptions, generate
from shards import geometry as geo
from shards.normalization import mark_dead, valid
from xectrain.baselines import RawEvents
from xectrain.baselines.inpainting import STRONG_FILL, fill_baselines
from xectrain.config.networks import InpainterConfig, MaeConfig
from xectrain.config.sensors import MaskingConfig
from xectrain.inference.events import Events
from xectrain.models.inpainter import Inpainter, RingMean, visible_values
from xectrain.models.mae import MaskedAutoencoder
from xectrain.models.sensors import OwnedCells, SensorOrder, fill, hide, part_channels, part_names
from xectrain.modes.losses_sensors import event_loss, sensor_loss
from xectrain.modes.masking import Masker, MaskInput

ENCODERS: dict[str, dict[str, Any]] = {
    "default": {},
    "split": {"outer": "split"},
    "tokens": {"inner_tokens": 4, "multiscale": True},
    "both": {"outer": "split", "inner_tokens": 2, "multiscale": True, "pool": "attention"},
}
BOTH = ("npho", "time")


def mae(encoder: dict[str, Any] | None = None, channels: Any = BOTH, **options: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return awakened(MaskedAutoencoder(tiny(encoder=encoder or {}, mae=options), channels, STANDARD).eval())


def inpainter(encoder: dict[str, Any] | None = None, channels: Any = BOTH, **options: Any) -> Inpainter:
    torch.manual_seed(0)
    return awakened(Inpainter(tiny(encoder=encoder or {}, inpainter=options), channels, STANDARD).eval())


def awakened(model: Any) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gamma", "beta", "bias", "last.weight")):
                parameter.normal_(std=0.3)
    return model


def drawn(x: Tensor, ratio: float, **options: Any) -> Tensor:
    npho_valid, time_valid = valid(x, STANDARD)
    ids = torch.arange(len(x))
    masker = Masker(MaskingConfig(**options), ratio, STANDARD, 3)
    return masker.draw(MaskInput(x, npho_valid, time_valid, torch.zeros_like(ids), ids), 0).hidden_BN


HEADS = ("per_face", "cross_attention", "neighbours")
MODELS = [
    *(("mae", name, {}) for name in ENCODERS),
    *(("inpaint", name, {"head": head}) for name in ENCODERS for head in HEADS),
    ("inpaint", "default", {"head": "per_face", "residual": True}),
    ("inpaint", "default", {"head": "cross_attention", "residual": True}),
]


@pytest.mark.parametrize(("mode", "encoder", "options"), MODELS, ids=lambda value: str(value))
def test_a_masked_sensor_influences_nothing(mode: str, encoder: str, options: dict[str, Any]) -> None:
    model = (mae if mode == "mae" else inpainter)(ENCODERS[encoder], **options)
    x = events(2)
    hidden = drawn(x, 0.3)
    seen, mask = hide(x, hidden, STANDARD)
    seen.requires_grad_()
    out = model(seen, mask)
    assert out.shape == (2, 4760, 2)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)) * mask[..., None]
    (out * weight).sum().backward()
    assert seen.grad is not None
    assert seen.grad.isfinite().all()
    assert (seen.grad[mask] == 0).all()
    for face in geo.FACE_NAMES:
        on_face = torch.from_numpy(geo.face_channels(face).astype("int64"))
        assert mask[:, on_face].any()
        assert (seen.grad[:, on_face][~mask[:, on_face]] != 0).any()
    poisoned = torch.where(mask[..., None], 1e30, seen.detach())
    assert torch.equal(model(poisoned, mask), out.detach())
    assert torch.equal(model(torch.where(hidden[..., None], x, seen.detach()), mask), out.detach())


@pytest.mark.parametrize(("mode", "encoder", "options"), MODELS, ids=lambda value: str(value))
def test_an_event_does_not_depend_on_its_batch(mode: str, encoder: str, options: dict[str, Any]) -> None:
    model = (mae if mode == "mae" else inpainter)(ENCODERS[encoder], **options)
    x = events(4)
    seen, mask = hide(x, drawn(x, 0.1), STANDARD)
    together = model(seen, mask)
    torch.testing.assert_close(model(seen[1:2], mask[1:2])[0], together[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(seen.flip(0), mask.flip(0)).flip(0), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["mae", "inpaint"])
def test_exactly_the_masked_valid_sensors_are_scored(mode: str) -> None:
    """The derivative of the loss by the predictions is where the score is; dead sensors are never scored."""
    x = events(3, dead=0.2)
    npho_valid, time_valid = valid(x, STANDARD)
    hidden = drawn(x, 0.4)
    assert (hidden & ~npho_valid).sum() == 0
    seen, mask = hide(x, hidden, STANDARD)
    assert torch.equal(mask, hidden | ~npho_valid)
    model = mae() if mode == "mae" else inpainter()
    prediction = model(seen, mask).detach().requires_grad_()
    loss = sensor_loss(MaskingConfig(loss="mse"), BOTH, STANDARD, prediction, x, hidden, time_valid)
    loss_B, good_B = event_loss(loss, {"npho": 1.0, "time": 1.0})
    loss_B.sum().backward()
    assert good_B.all()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad[..., 0] != 0, hidden)
    assert torch.equal(prediction.grad[..., 1] != 0, hidden & time_valid)
    assert loss.scored.tolist() == hidden.sum(dim=1).tolist()


@pytest.mark.parametrize("head", HEADS)
def test_inpainting_leaves_all_other_sensors_bit_identical(head: str) -> None:
    x = events(2)
    hidden = drawn(x, 0.05)
    seen, mask = hide(x, hidden, STANDARD)
    filled = fill(x, inpainter(head=head)(seen, mask), mask)
    assert torch.equal(filled[~mask].view(torch.int32), x[~mask].view(torch.int32))
    assert filled.isfinite().all()
    assert (filled[mask] != x[mask]).all(dim=-1).any()


@pytest.mark.parametrize("head", ["cross_attention", "neighbours"])
def test_these_heads_cost_and_answer_masked_sensors_only(head: str) -> None:
    model, x = inpainter(head=head), events(2, dead=0.0)
    mask = torch.zeros(2, 4760, dtype=torch.bool)
    assert (model(x, mask) == 0).all()
    mask[0, [5, 4200]] = True
    out = model(x, mask)
    assert torch.equal((out != 0).any(dim=-1), mask)


def test_the_surroundings_decide_what_attention_fills_in() -> None:
    model, x = inpainter(head="cross_attention", neighbours=6), events(1, dead=0.0)
    mask = torch.zeros(1, 4760, dtype=torch.bool)
    mask[0, 2000] = True
    tokens = model.encoder(x, mask)
    near = torch.from_numpy(geo.nearest(6, across_faces=True)[2000].astype("int64"))
    keep, timed = ~mask, valid(x, STANDARD)[1] & ~mask
    visible = visible_values(x, keep, timed).requires_grad_()
    model.head(visible, mask, tokens)[0, 2000].sum().backward()
    assert visible.grad is not None
    assert set((visible.grad[0, :, 0] != 0).nonzero().flatten().tolist()) == set(near.tolist())


def test_a_fresh_head_of_neighbours_fills_about_as_well_as_the_classical_filling() -> None:
    """On real light; photons are never negative, times are those of the neighbours."""
    toy = generate(12, ToyOptions(seed=5))
    x, mask = Events.of_raw(toy.npho, toy.relative_time).model_input(STANDARD, 100.0)
    hidden = drawn(x, 0.05)
    seen, mask = hide(x, hidden, STANDARD)
    fresh = Inpainter(tiny(inpainter={"head": "neighbours", "neighbours": 16}), BOTH, STANDARD).eval()
    with torch.no_grad():
        found = fresh(seen, mask)[hidden]
    photons, truth = STANDARD.inverse_npho(found[:, 0]).numpy(), toy.npho[hidden.numpy()]
    raw = RawEvents(toy.npho, toy.relative_time, {})
    classical = fill_baselines(raw, hidden.numpy(), (STRONG_FILL,))[STRONG_FILL]
    known = np.isfinite(classical.npho) & (photons < 3e4)
    assert np.abs(photons - truth)[known].mean() < 1.3 * np.abs(classical.npho - truth)[known].mean()
    assert photons.min() > 0
    time, timed = STANDARD.inverse_time(found[:, 1]).numpy(), (valid(x, STANDARD)[1] & hidden)[hidden].numpy()
    assert np.median(np.abs(time - toy.relative_time[hidden.numpy()])[timed]) < 5e-9


@pytest.mark.parametrize("head", ["per_face", "cross_attention"])
def test_a_fresh_residual_head_gives_the_mean_of_the_ring(head: str) -> None:
    model = Inpainter(tiny(inpainter={"head": head, "residual": True}), BOTH, STANDARD).eval()
    x = events(2)
    npho_valid, time_valid = valid(x, STANDARD)
    visible = visible_values(x, npho_valid, time_valid & npho_valid)
    at = ~npho_valid
    torch.testing.assert_close(model(x)[at], RingMean()(visible)[at])
    assert sum(bool((p != 0).any()) for p in model.head.parameters()) > 10


def test_the_residual_is_taken_to_the_mean_of_the_visible_ring() -> None:
    x = events(1, dead=0.0)
    mask = torch.zeros(1, 4760, dtype=torch.bool)
    mask[0, [100, 101, 4185, 4600]] = True
    timed = valid(x, STANDARD)[1] & ~mask
    mean = RingMean()(visible_values(x, ~mask, timed))[0]
    for channel in (100, 101, 4185, 4600, 3000):
        ring = torch.from_numpy(geo.ring().of(channel).astype("int64"))
        shown = ring[~mask[0, ring]]
        torch.testing.assert_close(mean[channel, 0], x[0, shown, 0].mean())
        torch.testing.assert_close(mean[channel, 1], x[0, shown[timed[0, shown]], 1].mean())
    everything = torch.ones_like(mask)
    assert (RingMean()(visible_values(x, ~everything, ~everything)) == 0).all()
    plain, residual = inpainter(residual=False), inpainter(residual=True)
    torch.testing.assert_close(residual(x, mask)[0], plain(x, mask)[0] + mean, rtol=1e-4, atol=1e-5)


def test_a_single_channel_is_the_one_that_was_asked_for() -> None:
    x = events(1)
    for channel, column in (("npho", 0), ("time", 1)):
        plain = inpainter(channels=(channel,), residual=False)(x)
        residual = inpainter(channels=(channel,), residual=True)(x)
        keep, timed = valid(x, STANDARD)
        mean = RingMean()(visible_values(x, keep, timed))[..., column : column + 1]
        assert plain.shape == (1, 4760, 1)
        torch.testing.assert_close(residual, plain + mean, rtol=1e-4, atol=1e-5)
        assert mae(channels=(channel,))(x).shape == (1, 4760, 1)


@pytest.mark.parametrize("variant", ENCODERS)
def test_every_sensor_has_its_own_prediction_on_the_right_face(variant: str) -> None:
    """A change on one decoder's token moves that face's sensors, all of them, and no other."""
    model = mae(ENCODERS[variant])
    x = events(1)
    before = model(x)
    for part in model.parts:
        channels = torch.from_numpy(part_channels(part).astype("int64"))
        with torch.no_grad():
            model.decoders[part].last.bias += 1.0
        moved = (model(x) - before)[0]
        before = model(x)
        where = (moved.abs() > 0.5).all(dim=1).nonzero().flatten()
        expected = set(channels.tolist())
        if part == "outer_coarse":
            expected -= set(geo.face_grid("outer_centre").ravel().tolist())
        assert set(where.tolist()) == expected


def test_owned_cells_and_sensor_order() -> None:
    cells = OwnedCells()
    grid = torch.from_numpy(geo.outer_fine_grid().ravel().astype("int64"))
    of_cell = grid[None, :, None].float()
    outer = torch.from_numpy(geo.face_channels("outer").astype("int64"))
    torch.testing.assert_close(cells.mean(of_cell)[0, :, 0], outer.float())
    torch.testing.assert_close(cells.attend(of_cell, torch.randn(1, 3240))[0, :, 0], outer.float())
    parts = part_names(tiny().encoder)
    order = SensorOrder([part_channels(part) for part in parts])
    numbered = [torch.from_numpy(part_channels(part).astype("float32"))[None, :, None] for part in parts]
    torch.testing.assert_close(order(numbered)[0, :, 0], torch.arange(4760.0))
    with pytest.raises(AssertionError, match="leave out sensors"):
        SensorOrder([part_channels("inner")])


def test_a_frozen_encoder_stays_in_evaluation() -> None:
    model = Inpainter(tiny(encoder={"fusion_dropout": 0.5}), ("npho",), STANDARD)
    assert model.train().encoder.training
    model.encoder.requires_grad_(False)
    assert not model.train().encoder.training
    assert model.head.training


MAE_CHANGES: dict[str, Any] = {"decoder_channels": (16, 12, 10), "hex_decoder_channels": 12, "hex_decoder_blocks": 2}
INPAINT_CHANGES: dict[str, Any] = {
    "head": "cross_attention",
    "local_channels": 12,
    "local_blocks": 2,
    "hex_local_channels": 12,
    "hex_local_blocks": 2,
    "neighbours": 12,
    "query_width": 32,
    "query_heads": 2,
    "hidden": 24,
    "residual": True,
}


@pytest.mark.parametrize("option", MaeConfig.model_fields)
def test_every_option_of_the_decoders_changes_the_output(option: str) -> None:
    x = events(1)
    assert not torch.allclose(mae()(x), mae(**{option: MAE_CHANGES[option]})(x), atol=1e-4)


@pytest.mark.parametrize("option", InpainterConfig.model_fields)
def test_every_option_of_the_inpainter_changes_the_output(option: str) -> None:
    x = events(1)
    base = {"head": "cross_attention"} if option in ("neighbours", "query_width", "query_heads") else {}
    changed = inpainter(**base, **{option: INPAINT_CHANGES[option]})
    assert not torch.allclose(inpainter(**base)(x), changed(x), atol=1e-4)


def test_dead_sensors_are_filled_like_hidden_ones() -> None:
    model, x = inpainter(), events(1, dead=0.0)
    hidden = drawn(x, 0.1)
    seen, mask = hide(x, hidden, STANDARD)
    dead = mark_dead(x, STANDARD, hidden)
    torch.testing.assert_close(model(dead), model(seen, mask))
