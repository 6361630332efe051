import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xectrain.config.networks import EncoderConfig
from xectrain.models import fused
from xectrain.models.backbone import ConvNeXtBlock, FaceBackbone
from xectrain.models.blocks import PointwiseBranch, drop_path_rates


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return module


def textbook_branch(branch: PointwiseBranch, x: Tensor, keep: Tensor) -> Tensor:
    """LayerNorm → Linear → GELU → GRN → Linear as the paper writes it, on visible positions only, event by event."""
    out = torch.zeros_like(x)
    for event in range(len(x)):
        shown = keep[event, :, 0] > 0
        h = F.gelu(branch.expand(branch.norm(x[event, shown])))
        norm = h.norm(dim=0)
        h = branch.gamma * (h * (norm / (norm.mean() + 1e-6))) + branch.beta + h
        out[event, shown] = branch.contract(h)
    return out


@pytest.mark.parametrize("path", ["chunked", "plain"])
def test_the_branch_is_that_of_the_paper_on_visible_positions(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    branch = randomized(PointwiseBranch(6))
    monkeypatch.setattr(fused, "CHUNK_BYTES", 4 * 11 * 24 * 2)  # two events at a time
    x = torch.randn(5, 11, 6)
    keep = (torch.rand(5, 11, 1) > 0.3).float()
    keep[2, 1:] = 0
    torch.testing.assert_close(
        getattr(branch, path)(x, keep, keep), textbook_branch(branch, x, keep), rtol=1e-4, atol=1e-5
    )


def test_the_chunked_path_has_the_gradients_of_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    branch = randomized(PointwiseBranch(6)).double()
    monkeypatch.setattr(fused, "CHUNK_BYTES", 4 * 11 * 24 * 2)
    x = torch.randn(5, 11, 6, dtype=torch.float64, requires_grad=True)
    keep = (torch.rand(5, 11, 1) > 0.3).double()
    keep[2] = 0
    weight = torch.randn(5, 11, 6, dtype=torch.float64)
    gradients = []
    for path in (branch.chunked, branch.plain):
        gradients.append(torch.autograd.grad((path(x, keep, keep) * weight).sum(), [x, *branch.parameters()]))
    for fast, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    assert (gradients[0][0][keep.expand_as(x) == 0] == 0).all()


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_without_gradients_the_chunked_path_takes_bf16_and_is_no_less_exact(
    stored: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch = randomized(PointwiseBranch(6))
    monkeypatch.setattr(fused, "CHUNK_BYTES", 2 * 11 * 24 * 2)  # two events at a time; the last is alone
    x = torch.randn(5, 11, 6).to(stored)
    keep = (torch.rand(5, 11, 1) > 0.3).float()
    deviation = {}
    with torch.no_grad():
        exact = textbook_branch(branch, x.float(), keep)
        for path in (branch.chunked, branch.plain):
            with torch.autocast("cpu", torch.bfloat16):
                out = path(x, keep, keep)
            assert out.dtype == torch.bfloat16
            assert (out[keep.expand_as(x) == 0] == 0).all()
            deviation[path] = float((out - exact).norm() / exact.norm())
    assert 0 < deviation[branch.chunked] < 0.02
    assert deviation[branch.chunked] < 1.5 * deviation[branch.plain]


def test_under_bf16_the_chunked_path_is_taken_only_without_gradients() -> None:
    branch, x = PointwiseBranch(6), torch.randn(2, 11, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert not branch.prefers_chunks(x)
        with torch.no_grad():
            assert branch.prefers_chunks(x)
    assert branch.prefers_chunks(x)


def test_an_event_with_nothing_visible_has_finite_gradients() -> None:
    block = ConvNeXtBlock(4)
    x = torch.zeros(2, 5, 5, 4, requires_grad=True)
    block(x, torch.zeros(2, 5, 5, 1)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


def test_stochastic_depth_drops_whole_events_and_keeps_the_mean() -> None:
    branch = randomized(PointwiseBranch(3, drop_path=0.5))
    x, keep = torch.randn(1, 7, 3).expand(400, 7, 3), torch.ones(400, 7, 1)
    whole = branch.eval()(x, keep)
    dropped = branch.train()(x, keep)
    survivors = (dropped != 0).any(dim=2).any(dim=1)
    assert 140 < survivors.sum() < 260
    torch.testing.assert_close(dropped[survivors], 2 * whole[survivors])
    assert drop_path_rates(0.4, 5) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def explicit_block(block: ConvNeXtBlock, x_BCHW: Tensor, keep_B1HW: Tensor) -> Tensor:
    """Channels first, zeroed before and after the mixing as the specification says."""
    mixed = F.conv2d(
        x_BCHW * keep_B1HW, block.depthwise.weight, block.depthwise.bias, padding=3, groups=x_BCHW.shape[1]
    )
    mixed = (mixed * keep_B1HW).flatten(2).transpose(1, 2)
    keep_BP1 = keep_B1HW.flatten(2).transpose(1, 2)
    return x_BCHW + textbook_branch(block.branch, mixed, keep_BP1).transpose(1, 2).unflatten(2, x_BCHW.shape[2:])


def test_the_backbone_is_fully_convolutional_under_masks() -> None:
    backbone = randomized(FaceBackbone(EncoderConfig(width=64, stage_blocks=(1, 2))))
    keep = (torch.rand(2, 12, 9) > 0.4).float()
    x = torch.randn(2, 12, 9, 2) * keep[..., None]
    found = backbone(x, keep[..., None])

    first_keep = keep[:, None, :-1, :-1]
    h = F.conv2d(x.permute(0, 3, 1, 2), backbone.stem.weight, backbone.stem.bias, padding=1)
    h = backbone.stem_norm(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * first_keep
    h = explicit_block(backbone.first[0], h, first_keep)
    torch.testing.assert_close(found.first_BHWC.permute(0, 3, 1, 2), h, rtol=1e-3, atol=1e-4)
    four = first_keep.squeeze(1)[:, :10, :8].unflatten(1, (5, 2)).unflatten(3, (4, 2))
    second_keep = four.amax(dim=(2, 4))[:, None]
    torch.testing.assert_close(found.second_keep_BHW1[..., 0], second_keep[:, 0])
    h = backbone.down_norm(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * first_keep
    h = F.conv2d(h, backbone.down.weight, backbone.down.bias, stride=2) * second_keep
    for block in backbone.second:
        h = explicit_block(block, h, second_keep)
    torch.testing.assert_close(found.second_BHWC.permute(0, 3, 1, 2), h, rtol=1e-3, atol=1e-4)
