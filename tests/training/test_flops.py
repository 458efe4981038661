"""What a step costs, against a count of the operations that PyTorch does, and the table of peaks."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from qednano.training.flops import model_flops, peak_flops


def test_forward_and_backward_are_what_pytorch_counts_but_for_the_half_that_is_masked(model_folder):
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="eager")
    length = 64
    with FlopCounterMode(display=False) as counted:
        model(input_ids=torch.randint(4, 300, (1, length))).logits.sum().backward()
    flops = model_flops(model.config)
    unmasked = 3 * flops.per_pair * (length**2 - length * (length + 1) / 2)
    assert flops.training([length], length) + unmasked == pytest.approx(counted.get_total_flops(), rel=1e-3)


def test_a_frozen_model_costs_a_third_less():
    class Shape:
        num_attention_heads, hidden_size, num_hidden_layers, intermediate_size, vocab_size = 4, 64, 2, 192, 512

    assert model_flops(Shape, trained=False).training([10], 9) == pytest.approx(
        model_flops(Shape).training([10], 9) * 2 / 3
    )


def test_peaks_go_by_the_devices_name():
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("Some CPU") is None
