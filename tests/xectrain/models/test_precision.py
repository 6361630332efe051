"""float32, bfloat16 autocast and compiled code agree; what must stay in float32 does."""

import copy

import pytest
import torch
from support.networks import STANDARD, events, masks, tiny
from torch import nn

from xectrain.compute import compile_in_place
from xectrain.config.networks import PRESETS, ModelConfig, TaskConfig, model_config
from xectrain.models.inpainter import Inpainter
from xectrain.models.mae import MaskedAutoencoder
from xectrain.models.regressor import Regressor

TASKS = {"energy": TaskConfig(loss="gaussian_nll"), "uvwFI": TaskConfig(), "angle": TaskConfig()}
BF16_RMS, BF16_LARGEST = 0.015, 0.08
"""Difference of bfloat16 and float32 outputs, in units of the outputs' spread (or 0.3, if that is larger)."""


WHOLE_FACES = {"focus": 0, "inner_resolution": 1, "inner_tokens": 8, "hex_channels": 32, "hex_blocks": 2}
"""`small` as it was before it had a focus, at half its width."""


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    small = model_config("small", {"encoder": WHOLE_FACES})
    return {
        "regress": Regressor(small, TASKS, STANDARD).eval(),
        "mae": MaskedAutoencoder(small, ("npho", "time"), STANDARD).eval(),
        **{
            head: Inpainter(
                model_config("small", {"encoder": WHOLE_FACES, "inpainter": {"head": head}}),
                ("npho", "time"),
                STANDARD,
            ).eval()
            for head in ("per_face", "cross_attention")
        },
        "focus": focused(PRESETS["small"]),
    }


def focused(config: ModelConfig) -> Regressor:
    """A regressor with last layers that matter: where there is a reference they begin at zero."""
    model = Regressor(config, {**TASKS, "timing": TaskConfig()}, STANDARD).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("last.weight", "shift.weight", "second.weight")):
                parameter.normal_(std=0.05)
    return model


def flat(output: object) -> torch.Tensor:
    if isinstance(output, dict):
        return torch.cat(list(output.values()), dim=1)
    assert isinstance(output, torch.Tensor)
    return output


@pytest.mark.parametrize("name", ["regress", "focus", "mae", "per_face", "cross_attention"])
def test_bfloat16_agrees_with_float32_and_gives_float32(name: str) -> None:
    model = networks()[name]
    x = events(6)
    mask = masks(x)
    with torch.no_grad():
        exact = flat(model(x, mask))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = flat(model(x, mask))
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    spread = max(float((exact[mask] if exact.ndim == 3 else exact).std()), 0.3)
    difference = (rounded - exact) / spread
    assert float(difference.square().mean().sqrt()) < BF16_RMS
    assert float(difference.abs().max()) < BF16_LARGEST


FIRST = {
    "regress": ("encoder.backbone.stem", "encoder.hexagonal.stem"),
    "focus": ("encoder.window.stem", "encoder.window.facts.0", "encoder.rest.stem", "encoder.rest.faces.0"),
}


@pytest.mark.parametrize("kind", FIRST)
def test_first_and_last_layers_compute_in_float32_under_autocast(kind: str) -> None:
    """bfloat16 there would quantize v by millimetres and sensor times by 100 ps."""
    model = networks()[kind]
    seen: dict[str, torch.dtype] = {}

    def watch(name: str) -> object:
        return lambda module, inputs, output: seen.update({name: output.dtype})

    exact = (*FIRST[kind], "heads.energy.last", "heads.uvwFI.last", "heads.angle.last")
    for name in (*exact, "heads.energy.body.0"):
        model.get_submodule(name).register_forward_hook(watch(name))
    x = events(2)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
    assert all(seen[name] == torch.float32 for name in exact)
    assert seen["heads.energy.body.0"] == torch.bfloat16


@pytest.mark.parametrize("kind", FIRST)
def test_gradients_agree_under_autocast(kind: str) -> None:
    model = networks()[kind]
    x = events(4)
    mask = masks(x)
    target = flat(model(x, mask)).detach() + 0.5
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = flat(model(x, mask))
        (out - target).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert cosine > 0.99


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo looks at it
@pytest.mark.parametrize("name", ["regress", "focus", "mae", "per_face", "cross_attention"])
def test_compiled_code_agrees(name: str) -> None:
    torch.manual_seed(0)
    short = model_config("small", {"encoder": {"focus_fit": 1}})  # a compiler takes a minute for four more steps
    model = focused(short) if name == "focus" else networks()[name]
    x = events(4)
    mask = masks(x)
    plain = flat(model(x, mask))
    compiled = copy.deepcopy(model)
    compile_in_place(compiled)
    torch.testing.assert_close(flat(compiled(x, mask)), plain, rtol=1e-3, atol=1e-4)
    target = plain.detach() + 0.5
    gradients = []
    for run in (model, compiled):
        (flat(run(x, mask)) - target).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in run.parameters() if p.grad is not None]))
    assert float(gradients[0].norm()) > 0.01
    allowed = 1e-3 if name == "focus" else 1e-4  # steps of a fit magnify rounding; what this looks for is of order one
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < allowed


def test_the_same_weights_give_the_same_numbers_after_saving() -> None:
    assert PRESETS["tiny"] != PRESETS["small"]
    torch.manual_seed(0)
    model = Regressor(tiny(), TASKS, STANDARD).eval()
    copy = Regressor(tiny(), TASKS, STANDARD).eval()
    copy.load_state_dict(model.state_dict())
    x = events(2)
    assert torch.equal(flat(model(x)), flat(copy(x)))
