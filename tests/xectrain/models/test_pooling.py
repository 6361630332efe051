import pytest
import torch
import torch.nn.functional as F

from xectrain.models.pooling import AttentionPool, LinearPool

SHAPES = [(46, 21), (11, 7), (11, 2), (2, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_without_a_mask_the_pools_are_those_of_torch(shape: tuple[int, int]) -> None:
    x_BCHW = torch.randn(2, 5, *shape)
    x_BPC = x_BCHW.flatten(2).transpose(1, 2)
    everywhere = torch.ones(2, shape[0] * shape[1], 1)
    area = LinearPool("area", shape, (4, 4))(x_BPC, everywhere).transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(area, F.adaptive_avg_pool2d(x_BCHW, 4))
    bilinear = LinearPool("bilinear", shape, (4, 4))(x_BPC, everywhere).transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(bilinear, F.interpolate(x_BCHW, size=4, mode="bilinear"), rtol=1e-4, atol=1e-5)


def test_area_reads_every_position_and_bilinear_64_of_966() -> None:
    assert int((LinearPool("area", (46, 21), (4, 4)).weight_QP.sum(dim=0) > 0).sum()) == 966
    assert int((LinearPool("bilinear", (46, 21), (4, 4)).weight_QP.sum(dim=0) > 0).sum()) == 64


@pytest.mark.parametrize("kind", ["area", "bilinear", "attention"])
def test_means_run_over_visible_positions(kind: str) -> None:
    torch.manual_seed(0)
    pool = AttentionPool(3, 1, (8, 8), (4, 4)) if kind == "attention" else LinearPool(kind, (8, 8), (4, 4))
    keep = torch.ones(2, 64, 1)
    keep[0, ::3] = 0
    keep[1] = 0
    x = torch.ones(2, 64, 3) * keep
    out = pool(x, keep)
    reference = pool(torch.ones(1, 64, 3), torch.ones(1, 64, 1))
    torch.testing.assert_close(out[:1], reference)  # the mean of equal values, however many are hidden
    assert (out[1] == 0).all()


def test_attention_starts_near_the_areas_and_each_face_has_its_own_queries() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(4, 2, (12, 12), (4, 4))
    weights = pool.position_GQP.softmax(dim=-1)[0].unflatten(1, (12, 12))
    assert weights[0, :6, :6].sum() > 0.95
    assert weights[15, 6:, 6:].sum() > 0.95
    x = torch.randn(1, 144, 4)
    both = pool(torch.cat([x, x]), torch.ones(2, 144, 1))
    assert not torch.allclose(both[0], both[1])
