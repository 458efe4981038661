"""Chunked log-probs equal the plain ones, values and gradients, and never hold tokens x vocabulary."""

from __future__ import annotations

import pytest
import torch

from qednano.training.logprobs import chunked_logprobs


def plain(hidden, weight, targets, temperature):
    log_p = torch.log_softmax(hidden @ weight.T / temperature, -1)
    return log_p.gather(1, targets[:, None])[:, 0], torch.distributions.Categorical(logits=log_p).entropy()


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_chunked_equals_full(chunk, temperature):
    torch.manual_seed(0)
    hidden, weight = torch.randn(65, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    targets, factors = torch.randint(0, 50, (65,)), torch.randn(2, 65)
    results = []
    for function in (
        lambda: plain(hidden, weight, targets, temperature),
        lambda: chunked_logprobs(hidden, weight, targets, temperature, chunk),
    ):
        logprobs, entropy = function()
        grads = torch.autograd.grad((factors[0] * logprobs + factors[1] * entropy).sum(), (hidden, weight))
        results.append((logprobs.detach(), entropy.detach(), *grads))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_loss_linear_in_the_logprobs_gets_its_gradient_in_the_forward_pass(temperature):
    torch.manual_seed(2)
    hidden, weight = torch.randn(65, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    targets, coefficients = torch.randint(0, 50, (65,)), torch.rand(65)
    expected, expected_entropy = plain(hidden, weight, targets, temperature)
    grads = torch.autograd.grad(-3 * (coefficients * expected).sum(), (hidden, weight))
    found, entropy = chunked_logprobs(hidden, weight, targets, temperature, 16, -coefficients)
    torch.testing.assert_close((found, entropy), (expected, expected_entropy), rtol=1e-5, atol=1e-5)
    found_grads = torch.autograd.grad(3 * -(coefficients * found).sum(), (hidden, weight))
    torch.testing.assert_close(found_grads, grads, rtol=1e-5, atol=1e-5)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight = torch.randn(9, 4, requires_grad=True), torch.randn(6, 4)
    for coefficients in (None, torch.ones(9)):
        logprobs, _ = chunked_logprobs(hidden, weight, torch.zeros(9, dtype=torch.long), 1.0, 4, coefficients)
        (grad,) = torch.autograd.grad(logprobs.sum(), hidden)
        expected = torch.autograd.grad(plain(hidden, weight, torch.zeros(9, dtype=torch.long), 1.0)[0].sum(), hidden)
        torch.testing.assert_close(grad, *expected)


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(1)
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 6, (5,))
    step = 1e-3
    for which in (0, 1):
        logprobs, entropy = chunked_logprobs(hidden, weight, targets, 0.7, 2)
        (grad,) = torch.autograd.grad(logprobs.double().sum() + 2 * entropy.double().sum(), [(hidden, weight)[which]])
        moved = []
        for sign in (1, -1):
            inputs = [hidden.detach().clone(), weight.detach().clone()]
            inputs[which][0, 0] += sign * step
            lp, h = plain(*inputs, targets, 0.7)
            moved.append(lp.sum() + 2 * h.sum())
        assert float(grad[0, 0]) == pytest.approx(float(moved[0] - moved[1]) / (2 * step), abs=1e-4)


@pytest.mark.parametrize("linear", [False, True])
def test_no_tensor_of_tokens_by_vocabulary_is_made_and_entropy_takes_no_pass_of_its_own(linear):
    tokens, vocabulary, chunk = 512, 4096, 16
    largest = products = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest, products
            out = func(*args, **(kwargs or {}))
            products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    hidden, weight = torch.randn(tokens, 8, requires_grad=True), torch.randn(vocabulary, 8, requires_grad=True)
    targets, coefficients = torch.zeros(tokens, dtype=torch.long), torch.ones(tokens) if linear else None
    with Watch():
        logprobs, entropy = chunked_logprobs(hidden, weight, targets, 1.0, chunk, coefficients)
        (logprobs if linear else logprobs + entropy).sum().backward()
    assert largest <= max(chunk * vocabulary, weight.numel())
    # logits, and the gradients by hidden and by the weight; where these are not made along, logits once more
    assert products == (tokens // chunk) * (3 if linear else 4)


def test_no_tokens_give_no_logprobs_and_zero_gradients():
    hidden, weight = torch.randn(0, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    logprobs, _ = chunked_logprobs(hidden, weight, torch.zeros(0, dtype=torch.long))
    logprobs.sum().backward()
    assert logprobs.shape == (0,) and torch.equal(weight.grad, torch.zeros_like(weight))
