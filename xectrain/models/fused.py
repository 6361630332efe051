"""The pointwise branch of a block, written to keep its widest tensors in the cache of a CPU.

Written out op by op, the 4× wide hidden tensor of a batch goes through memory a dozen times forward and backward, and
that is where a CPU spends most of the network's time. Nothing in the branch crosses events, so events can be taken a
few at a time, in buffers that are used again (newly allocated memory costs more than the arithmetic on it), and
what the backward pass needs can be computed again from the narrow input instead of being stored.

Without gradients this works in any type that matrices are multiplied in; with them in float32 only.

Shape suffixes: see `xectrain.models.blocks`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_BYTES = 4 << 20
"""Size of the hidden tensor of the events taken together; a few of these fit in the last-level cache."""
EPSILON = 1e-6


class Weights(NamedTuple):
    """Parameters of the branch, in the order in which the function takes them."""

    norm_weight_C: Tensor
    norm_bias_C: Tensor
    expand_weight_FC: Tensor
    expand_bias_F: Tensor
    gamma_F: Tensor
    beta_F: Tensor
    contract_weight_CF: Tensor
    contract_bias_C: Tensor


class KeptForBackward(NamedTuple):
    """What the branch holds between its two linear layers, for a few events."""

    normed_BPC: Tensor
    mean: Tensor
    rstd: Tensor
    before_BPF: Tensor
    """Before the GELU."""
    after_BPF: Tensor
    norm_BF: Tensor
    """Square root of the summed squares over visible positions."""
    response_BF: Tensor


def pointwise_branch(x_BPC: Tensor, keep_BP1: Tensor, survival_BP1: Tensor, weights: Weights) -> Tensor:
    """LayerNorm → Linear → GELU → response normalization → Linear, times `survival`.

    Args:
        x_BPC: contiguous; float32 where gradients are wanted.
        keep_BP1: float32, 1 at visible positions.
        survival_BP1: float32, `keep` times the factor of stochastic depth.

    Returns:
        (B, P, C) in the type of matrix products: autocast's, else that of `x_BPC`.
    """
    if torch.is_grad_enabled():
        out: Tensor = _FusedBranch.apply(x_BPC, keep_BP1, survival_BP1, *weights)
        return out
    return _forward(x_BPC, keep_BP1, survival_BP1, weights)


def _chunks(x_BPC: Tensor, hidden: int, itemsize: int) -> range:
    events = max(1, CHUNK_BYTES // (itemsize * x_BPC.shape[1] * hidden))
    return range(0, x_BPC.shape[0], events)


def _forward(x_BPC: Tensor, keep_BP1: Tensor, survival_BP1: Tensor, w: Weights) -> Tensor:
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_BPC.dtype
    positions, hidden = x_BPC.shape[1], len(w.gamma_F)
    keep_BP1, survival_BP1 = keep_BP1.to(dtype), survival_BP1.to(dtype)
    expand_weight_CF, expand_bias_F = w.expand_weight_FC.t().to(dtype), w.expand_bias_F.to(dtype)
    out_BPC = torch.empty_like(x_BPC, dtype=dtype)
    chunks = _chunks(x_BPC, hidden, dtype.itemsize)
    after, squared = (x_BPC.new_empty(chunks.step, positions, hidden, dtype=dtype) for _ in range(2))
    for start in chunks:
        part = slice(start, start + chunks.step)
        normed_BPC = F.layer_norm(x_BPC[part], [x_BPC.shape[-1]], w.norm_weight_C, w.norm_bias_C, EPSILON).to(dtype)
        after_BPF, squared_BPF = after[: len(normed_BPC)], squared[: len(normed_BPC)]
        torch.addmm(expand_bias_F, normed_BPC.flatten(0, 1), expand_weight_CF, out=after_BPF.flatten(0, 1))
        torch.ops.aten.gelu_(after_BPF)
        torch.mul(after_BPF, after_BPF, out=squared_BPF)
        energy_BF = torch.bmm(keep_BP1[part].transpose(1, 2), squared_BPF).squeeze(1)
        weight_BFC, bias_C = event_weights(response(energy_BF)[1], w)
        torch.bmm(after_BPF, weight_BFC.to(dtype), out=out_BPC[part])
        out_BPC[part].add_(bias_C.to(dtype)).mul_(survival_BP1[part])
    return out_BPC


def response(energy_BF: Tensor) -> tuple[Tensor, Tensor]:
    """Norm of each hidden channel over the visible positions, from its square, and that relative to the mean of the
    channels; float32 (B, F)."""
    norm_BF = (energy_BF.float() + EPSILON**2).sqrt()  # the square root of an exact 0 has no gradient
    return norm_BF, norm_BF / (norm_BF.mean(dim=-1, keepdim=True) + EPSILON)


def _hidden(x_BPC: Tensor, keep_BP1: Tensor, w: Weights) -> KeptForBackward:
    channels = [x_BPC.shape[-1]]
    normed, mean, rstd = torch.native_layer_norm(x_BPC, channels, w.norm_weight_C, w.norm_bias_C, EPSILON)
    before = F.linear(normed, w.expand_weight_FC, w.expand_bias_F)
    after = F.gelu(before)
    energy_BF = torch.bmm(keep_BP1.transpose(1, 2), after * after).squeeze(1)
    return KeptForBackward(normed, mean, rstd, before, after, *response(energy_BF))


def event_weights(response_BF: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
    """The second linear layer's weights with each event's response folded in, (B, F, C), and its bias, (C,)."""
    weight_FC = w.contract_weight_CF.t()
    return (1 + w.gamma_F * response_BF)[:, :, None] * weight_FC, w.beta_F @ weight_FC + w.contract_bias_C


class _FusedBranch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BPC: Tensor, keep_BP1: Tensor, survival_BP1: Tensor, *parameters: Tensor) -> Tensor:
        out_BPC = _forward(x_BPC, keep_BP1, survival_BP1, Weights(*parameters))
        ctx.save_for_backward(x_BPC, keep_BP1, survival_BP1, *parameters)
        return out_BPC

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_BPC, keep_BP1, survival_BP1, *parameters = ctx.saved_tensors
        w = Weights(*parameters)
        totals = Weights(*(torch.zeros_like(p) for p in w))
        grad_x_BPC = torch.empty_like(x_BPC)
        chunks = _chunks(x_BPC, len(w.gamma_F), x_BPC.itemsize)
        for start in chunks:
            part = slice(start, start + chunks.step)
            grad_out = grads[0][part] * survival_BP1[part]
            grad_x_BPC[part] = _chunk_backward(x_BPC[part], keep_BP1[part], grad_out, w, totals)
        return (grad_x_BPC, None, None, *totals)


def _chunk_backward(x_BPC: Tensor, keep_BP1: Tensor, grad_BPC: Tensor, w: Weights, totals: Weights) -> Tensor:
    """Gradient of the input; the parameters' gradients are added to `totals`. `grad_BPC` is 0 at masked positions."""
    h = _hidden(x_BPC, keep_BP1, w)
    weight_BFC, _ = event_weights(h.response_BF, w)
    grad_weight_BFC = torch.bmm(h.after_BPF.transpose(1, 2), grad_BPC)
    grad_norm_BF = _response_backward(h, w, grad_weight_BFC, grad_BPC.sum(dim=(0, 1)), totals)
    grad_after = torch.bmm(grad_BPC, weight_BFC.transpose(1, 2))
    grad_after.addcmul_(h.after_BPF, (grad_norm_BF / h.norm_BF)[:, None])
    grad_before = torch.ops.aten.gelu_backward(grad_after, h.before_BPF)
    grad_before.mul_(keep_BP1)
    grad_normed = grad_before @ w.expand_weight_FC
    totals.expand_weight_FC.addmm_(grad_before.flatten(0, 1).t(), h.normed_BPC.flatten(0, 1))
    totals.expand_bias_F.add_(grad_before.sum(dim=(0, 1)))
    grad_x, grad_norm_weight, grad_norm_bias = torch.ops.aten.native_layer_norm_backward(
        grad_normed, x_BPC, [x_BPC.shape[-1]], h.mean, h.rstd, w.norm_weight_C, w.norm_bias_C, [True, True, True]
    )
    totals.norm_weight_C.add_(grad_norm_weight)
    totals.norm_bias_C.add_(grad_norm_bias)
    result: Tensor = grad_x
    return result


def _response_backward(
    h: KeptForBackward, w: Weights, grad_weight_BFC: Tensor, grad_bias_C: Tensor, totals: Weights
) -> Tensor:
    """Gradient of the hidden channels' norms, through the response folded into the second layer's weights: (B, F)."""
    weight_FC = w.contract_weight_CF.t()
    gain_BF1 = (1 + w.gamma_F * h.response_BF)[:, :, None]
    totals.contract_weight_CF.add_(((grad_weight_BFC * gain_BF1).sum(dim=0) + torch.outer(w.beta_F, grad_bias_C)).t())
    totals.contract_bias_C.add_(grad_bias_C)
    totals.beta_F.add_(weight_FC @ grad_bias_C)
    grad_gain_BF = (grad_weight_BFC * weight_FC).sum(dim=-1)
    totals.gamma_F.add_((grad_gain_BF * h.response_BF).sum(dim=0))
    grad_response_BF = grad_gain_BF * w.gamma_F
    mean_B1 = h.norm_BF.mean(dim=-1, keepdim=True) + EPSILON
    through_mean_B1 = (grad_response_BF * h.response_BF).mean(dim=-1, keepdim=True)
    return (grad_response_BF - through_mean_B1) / mean_B1
