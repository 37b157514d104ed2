from __future__ import annotations

from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_xt.model.context import scan, scan_blocks
from napari_xt.model.context.scan import scan_on, selective_scan, selective_scan_ref

# "one chunk": every block is one chunk, as where channels are many; "chunks": many walk side by side
FORMS = pytest.mark.parametrize("step", [1, 2**13], ids=["one chunk", "chunks"])
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 200), st.integers(1, 9), st.integers(1, 5))
Tensors = tuple[torch.Tensor, ...]


def arguments(
    batch: int, length: int, channels: int, state: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensors:
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make, dtype=dtype)

    return (
        normal(batch, length, channels),
        torch.nn.functional.softplus(normal(batch, length, channels) - 2),
        -normal(channels, state).exp(),
        normal(batch, length, state),
        normal(batch, length, state),
        normal(channels),
    )


def start(u: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    return u.new_zeros(len(u), *a.mT.shape)


def without_recurrence(*given_: torch.Tensor) -> np.ndarray:
    """Return y as the sum over all earlier tokens that the recurrence of Algorithm 2 stands for, in float64."""
    u, dt, a, b, c, skip = (x.detach().double().numpy() for x in given_)
    elapsed = dt.cumsum(1)  # (B, L, E)
    since = np.tril(np.ones((u.shape[1],) * 2))[..., None] * (elapsed[:, :, None] - elapsed[:, None])  # (B, t, s, E)
    kernel = np.einsum("btn,bsn,btsen->btse", c, b, np.exp(since[..., None] * a))
    seen = np.tril(np.ones((u.shape[1],) * 2))[..., None] * kernel
    return np.einsum("btse,bse->bte", seen, dt * u) + skip * u


@FORMS
@settings(max_examples=40)
@given(SIZES, st.integers(0, 5))
def test_the_scan_by_blocks_is_the_token_loop(step: int, sizes: tuple[int, ...], seed: int) -> None:
    given_ = arguments(*sizes, seed)
    with patch.object(scan_blocks, "STEP", step):
        torch.testing.assert_close(selective_scan(*given_), selective_scan_ref(*given_), atol=3e-5, rtol=0)


@FORMS
@pytest.mark.parametrize("length", [1, 31, 32, 33, 70])
def test_both_are_the_sum_over_all_earlier_tokens(step: int, length: int) -> None:
    given_ = arguments(2, length, 5, 3, dtype=torch.float64)
    wanted = torch.from_numpy(without_recurrence(*given_))
    with patch.object(scan_blocks, "STEP", step):
        for form in (selective_scan, selective_scan_ref):
            torch.testing.assert_close(form(*given_), wanted, atol=1e-12, rtol=1e-12)


@pytest.mark.filterwarnings("ignore")  # of the packages that mamba_ssm imports
def test_the_token_loop_is_that_of_mamba_ssm() -> None:
    theirs = pytest.importorskip("mamba_ssm.ops.selective_scan_interface", exc_type=ImportError)
    u, dt, a, b, c, skip = arguments(2, 100, 6, 4)
    wanted = theirs.selective_scan_ref(u.mT, dt.mT, a, b.mT, c.mT, skip).mT
    for form in (selective_scan, selective_scan_ref):
        torch.testing.assert_close(form(u, dt, a, b, c, skip), wanted, atol=3e-5, rtol=0)


@FORMS
@settings(max_examples=40)
@given(SIZES, st.lists(st.integers(1, 199), max_size=6), st.sampled_from([torch.float32, torch.float64]))
def test_a_scan_is_continued_anywhere(step: int, sizes: tuple[int, ...], cuts: list[int], dtype: torch.dtype) -> None:
    u, dt, a, b, c, skip = arguments(*sizes, dtype=dtype)
    ends = sorted({0, sizes[1], *(cut for cut in cuts if cut < sizes[1])})
    tolerance = 1e-12 if dtype == torch.float64 else 3e-6
    with patch.object(scan_blocks, "STEP", step):
        whole, last = scan_on(u, dt, a, b, c, skip, start(u, a))
        state, parts = start(u, a), []
        for part in (slice(*span) for span in pairwise(ends)):
            y, state = scan_on(u[:, part], dt[:, part], a, b[:, part], c[:, part], skip, state)
            parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(state, last, atol=tolerance, rtol=tolerance)


@FORMS
@settings(max_examples=20)
@given(SIZES)
def test_gradients_are_those_of_the_token_loop(step: int, sizes: tuple[int, ...]) -> None:
    gradients = []
    with patch.object(scan_blocks, "STEP", step):
        for form in (selective_scan, selective_scan_ref):
            leaves = [x.requires_grad_() for x in arguments(*sizes, dtype=torch.float64)]
            gradients.append(torch.autograd.grad(form(*leaves).square().sum(), leaves))
    for fast, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-9, rtol=1e-9)


@FORMS
def test_gradients_are_those_of_differences_and_pass_through_states(step: int) -> None:
    given_ = arguments(2, 67, 2, 2, dtype=torch.float64)
    state = torch.randn(2, 2, 2, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (*given_, state)]
    with patch.object(scan_blocks, "STEP", step):
        assert torch.autograd.gradcheck(scan_on, leaves)


def test_training_keeps_no_state_of_every_token() -> None:
    kept = []
    leaves = [x.requires_grad_() for x in arguments(1, 512, 64, 16)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        selective_scan(*leaves)
    assert sum(kept) < 0.5 * 512 * 64 * 16


def test_a_state_that_decays_at_once_is_forgotten() -> None:
    u, dt, a, b, c, skip = arguments(1, 100, 6, 4)
    given_ = u, dt * 1e4, a - 1, b * 1e-4, c, skip
    torch.testing.assert_close(selective_scan(*given_), selective_scan_ref(*given_), atol=3e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_scanned_in_float32(dtype: torch.dtype) -> None:
    given_ = tuple(x.to(dtype) for x in arguments(1, 200, 6, 4))
    y = selective_scan(*given_)
    assert y.dtype == dtype
    assert torch.equal(y, selective_scan(*(x.float() for x in given_)).to(dtype))


def kernel(u: torch.Tensor, delta: torch.Tensor, *given_: torch.Tensor) -> torch.Tensor:
    """Take sequences as ``mamba_ssm.ops.selective_scan_interface.selective_scan_fn`` does."""
    a, b, c, skip = given_
    return selective_scan_ref(u.mT, delta.mT, a, b.mT, c.mT, skip).mT


def test_the_fused_kernel_is_given_its_own_layout() -> None:
    given_ = arguments(2, 50, 6, 4)
    with patch.object(scan, "can_fuse", return_value=True), patch.object(scan, "_kernel", return_value=kernel):
        torch.testing.assert_close(selective_scan(*given_), selective_scan_ref(*given_))


def test_tensors_on_a_cpu_are_not_for_the_fused_kernel() -> None:
    assert not scan.can_fuse(torch.zeros(1))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of the packages that mamba_ssm imports
def test_the_fused_kernel_is_the_token_loop_with_its_gradients() -> None:
    given_ = [x.cuda() for x in arguments(2, 300, 64, 16)]
    if not scan.can_fuse(given_[0]):
        pytest.skip("needs mamba_ssm, built for CUDA")
    results = []
    for form in (selective_scan, selective_scan_ref):
        leaves = [x.clone().requires_grad_() for x in given_]
        y = form(*leaves)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
def test_the_scan_by_blocks_is_the_token_loop_on_a_gpu() -> None:
    u, dt, a, b, c, skip = (x.cuda() for x in arguments(2, 300, 64, 16))
    y, _ = scan_on(u, dt, a, b, c, skip, start(u, a))
    torch.testing.assert_close(y, selective_scan_ref(u, dt, a, b, c, skip), atol=3e-5, rtol=1e-5)
