"""Layers that keep fewer activations give what transformers' own give, values and gradients, and do keep fewer."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

from qednano.training.thrifty import make_thrifty


def layer(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "mlp":
        return Qwen3MLP(Qwen3Config(hidden_size=24, intermediate_size=40))
    norm = Qwen3RMSNorm(24)
    torch.nn.init.normal_(norm.weight)
    return norm


@pytest.mark.parametrize("kind", ["norm", "mlp"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_values_and_gradients_are_those_of_the_plain_layer(kind, dtype, close):
    plain = layer(kind).to(dtype)
    thrifty = copy.deepcopy(plain)
    assert make_thrifty(torch.nn.ModuleList([thrifty])) == 1
    kept, results = [], []
    for module in (plain, thrifty):
        x = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            out = module(x)
        direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        grads = torch.autograd.grad((out * direction).sum(), (x, *module.parameters()))
        kept.append(sum(saved))
        results.append((out.detach(), *grads))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=close, atol=close)
    assert kept[1] < kept[0]
