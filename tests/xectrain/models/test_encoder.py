from typing import Any

import pytest
import torch
from support.networks import HIDDEN_TWELVE, STANDARD, events, masks, tiny
from torch import Tensor

from shards import geometry as geo
from shards.normalization import preset, valid
from xectrain.config.networks import PRESETS, EncoderConfig, ModelConfig
from xectrain.models.encoder import Encoder
from xectrain.models.faces import token_blocks

CHANNELS = {face: torch.from_numpy(geo.face_channels(face).astype("int64")) for face in geo.FACE_NAMES}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "split": {"outer": "split"},
    "cells": {"outer_pool": (1, 1)},
    "bilinear": {"pool": "bilinear"},
    "attention": {"pool": "attention", "mixer": "attention"},
    "tokens": {"inner_tokens": 4, "multiscale": True, "position": "geometric", "fusion_norm": "pre"},
    "focus": {"focus": 11},
    "coarse": {"focus": 11, "inner_resolution": 4},
    "validity": {"validity_channel": True, "invalid_time": "zero", "position": "sinusoidal"},
}


def encoder(norm: Any = STANDARD, **options: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(tiny(encoder=options).encoder, norm).eval()


def awakened(module: Encoder) -> Encoder:
    """With response normalization and stochastic parts that matter: fresh networks have them at zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("gamma", "beta", "bias", "direction")):
                parameter.normal_(std=0.3)
    return module


def test_the_reference_network_has_its_parameters() -> None:
    reference = Encoder(PRESETS["reference"].encoder, STANDARD)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in reference.named_children()}
    assert count["backbone"] == 140_768
    assert count["hexagonal"] == 403_744
    assert count["fusion"] == 25_192_448
    assert sum(p.numel() for p in reference.parameters()) == 25_743_104
    assert [token.name for token in reference.tokens] == list(geo.FACE_NAMES)


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, 6),
        ({"outer": "split"}, 7),
        ({"inner_tokens": 8}, 13),
        ({"multiscale": True}, 10),
        ({"multiscale": True, "inner_tokens": 4, "outer": "split"}, 4 + 2 + 2 + 2 + 4 + 2 + 2),
    ],
)
def test_tokens(options: dict[str, Any], tokens: int) -> None:
    network = encoder(**options)
    out = network(events(2))
    assert out.shape == (2, tokens, 128)
    assert out.dtype == torch.float32
    assert len(network.tokens) == network.token_count == tokens
    every = set()
    for token in network.tokens:
        assert (geo.nominal().face[token.channels] == geo.FACE_NAMES.index(token.face)).all()
        every.update(token.channels.tolist())
    assert every == set(range(4760))
    assert token_blocks(8, (93, 44)) == (4, 2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scheme", ["standard", "sqrt"])
def test_a_masked_sensor_influences_nothing(variant: str, scheme: str) -> None:
    norm = preset(scheme)
    network = awakened(encoder(norm, **VARIANTS[variant]))
    x, draw = events(3, norm=norm), torch.Generator().manual_seed(5)
    mask = masks(x, 0.3, norm=norm)
    mask[1, CHANNELS["top"]] = True
    mask[2, CHANNELS["inner"]] = True
    for face in geo.FACE_NAMES:
        assert mask[0, CHANNELS[face]].any()
    x.requires_grad_()
    out = network(x, mask)
    (out * torch.randn(out.shape, generator=draw)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[mask] == 0).all()
    for poison in (float("nan"), 1e30):
        other = torch.where(mask[..., None], poison, x.detach())
        assert torch.equal(network(other, mask), out.detach())


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "bilinear"])
def test_every_sensor_influences_the_tokens(variant: str) -> None:
    """One by one, through the derivative of a random projection of the tokens by each sensor's photons and time."""
    network = awakened(encoder(**VARIANTS[variant]))
    x = events(3, dead=0.0)
    _, timed = valid(x, STANDARD)
    x.requires_grad_()
    out = network(x, torch.zeros(3, 4760, dtype=torch.bool))
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    assert x.grad is not None
    photons = (x.grad[..., 0] != 0).all(dim=0)
    assert photons.all(), f"sensors without influence: {(~photons).nonzero().flatten()[:20].tolist()}"
    assert ((x.grad[..., 1] != 0) | ~timed).all()
    assert photons[list(HIDDEN_TWELVE)].all()


def test_the_twelve_sensors_hidden_by_an_older_map_count_as_much_as_the_others() -> None:
    network, x = awakened(encoder()), events(2, dead=0.0)
    before = network(x).detach()
    changes = []
    for sensor in (*HIDDEN_TWELVE, 4092, 4300):
        changed = x.clone()
        changed[:, sensor, 0] += 0.2
        changes.append(float((network(changed).detach() - before).norm()))
    assert min(changes[:12]) > 0.1 * min(changes[12:]) > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_event_does_not_depend_on_its_batch(variant: str) -> None:
    network, x = awakened(encoder(**VARIANTS[variant])), events(5)
    mask = masks(x)
    together = network(x, mask)
    for i in (0, 3):
        torch.testing.assert_close(network(x[i : i + 1], mask[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(x.flip(0), mask.flip(0)).flip(0), together, rtol=1e-4, atol=1e-5)


def test_without_a_mask_the_sentinels_say_what_is_masked() -> None:
    network, x = encoder(), events(2, dead=0.2)
    torch.testing.assert_close(network(x), network(x, ~valid(x, STANDARD)[0]))
    assert not torch.allclose(network(x), network(x, torch.zeros(2, 4760, dtype=torch.bool)))


def test_a_dead_sensor_is_told_from_a_dark_one_by_the_validity_channel_or_its_surroundings() -> None:
    network, x = awakened(encoder(validity_channel=True)), events(1, dead=0.0)
    x[0, 500] = 0.0
    mask = torch.zeros(1, 4760, dtype=torch.bool)
    dark = network(x, mask)
    mask[0, 500] = True
    assert not torch.allclose(network(x, mask), dark, atol=1e-4)


def test_up_and_downstream_are_not_mixed_up() -> None:
    network, x = awakened(encoder(fusion_layers=0)), events(2)
    names = [token.name for token in network.tokens]
    before = network(x)
    for face in geo.FACE_NAMES:
        changed = x.clone()
        changed[:, CHANNELS[face], 0] *= 0.5
        moved = (network(changed) - before).abs().sum(dim=(0, 2)) > 0
        assert [name for name, m in zip(names, moved, strict=True) if m] == [face]


ALTERNATIVES: dict[str, Any] = {
    "width": 64,
    "stage_blocks": (2, 1),
    "outer": "split",
    "outer_pool": (1, 1),
    "pool": "bilinear",
    "inner_tokens": 2,
    "multiscale": True,
    "hex_channels": 12,
    "hex_blocks": 2,
    "mixer": "attention",
    "position": "geometric",
    "fusion_layers": 2,
    "fusion_heads": 2,
    "fusion_norm": "pre",
    "fusion_dropout": 0.5,
    "validity_channel": True,
    "invalid_time": "zero",
    "drop_path": 0.9,
    "focus": 11,
}
COARSE = {"focus": 11, "inner_resolution": 4}
WITH_FOCUS: dict[str, Any] = {
    "focus": 13,
    "focus_channels": (16, 64),
    "focus_blocks": (1, 2),
    "focus_tokens": 1,
    "focus_fit": 3,
    "inner_resolution": 3,
    "rest_channels": (8, 32),
}


@pytest.mark.parametrize("option", EncoderConfig.model_fields)
def test_every_option_changes_the_output(option: str) -> None:
    assert option in ALTERNATIVES or option in WITH_FOCUS
    x = events(8)

    def output(**options: Any) -> Tensor:
        network = awakened(encoder(**options)).train()
        torch.manual_seed(7)
        out: Tensor = network(x)
        return out

    pairs = [(base, table[option]) for base, table in (({}, ALTERNATIVES), (COARSE, WITH_FOCUS)) if option in table]
    for base, value in pairs:
        plain, changed = output(**base), output(**{**base, option: value})
        assert plain.shape != changed.shape or not torch.allclose(plain, changed, atol=1e-4)


def test_attention_weights_are_probabilities_between_tokens() -> None:
    network, x = encoder(fusion_layers=2), events(2)
    weights = network.attention(x)
    assert weights.shape == (2, 2, 4, 6, 6)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 4, 6))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_fusion_layer_is_torchs_transformer_layer(norm: str) -> None:
    config = EncoderConfig(width=64, fusion_heads=4, fusion_norm=norm, fusion_dropout=0.0, fusion_layers=1)  # type: ignore[arg-type]
    layer = Encoder(config, STANDARD).fusion.layers[0]
    theirs = torch.nn.TransformerEncoderLayer(
        64, 4, 256, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=norm == "pre"
    )
    pairs = {
        "self_attn.in_proj_weight": layer.qkv.weight,
        "self_attn.in_proj_bias": layer.qkv.bias,
        "self_attn.out_proj.weight": layer.out.weight,
        "self_attn.out_proj.bias": layer.out.bias,
        "linear1.weight": layer.expand.weight,
        "linear1.bias": layer.expand.bias,
        "linear2.weight": layer.contract.weight,
        "linear2.bias": layer.contract.bias,
        "norm1.weight": layer.attention_norm.weight,
        "norm1.bias": layer.attention_norm.bias,
        "norm2.weight": layer.feed_norm.weight,
        "norm2.bias": layer.feed_norm.bias,
    }
    theirs.load_state_dict({name: value.detach() for name, value in pairs.items()})
    x = torch.randn(3, 6, 64)
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_a_surveyed_geometry_moves_the_geometric_code_only_and_travels_with_the_weights() -> None:
    nominal = geo.nominal()
    moved = geo.Geometry(nominal.positions + 1.0, nominal.normals, nominal.face, "moved")
    config = tiny(encoder={"position": "geometric"}).encoder
    torch.manual_seed(0)
    here = Encoder(config, STANDARD).eval()
    torch.manual_seed(0)
    there = Encoder(config, STANDARD, moved).eval()
    x = events(1)
    assert not torch.allclose(here(x), there(x))
    here.load_state_dict(there.state_dict())
    assert torch.equal(here(x), there(x))


def test_configs_are_compared_by_value() -> None:
    assert tiny() == tiny()
    assert ModelConfig() == PRESETS["reference"]
