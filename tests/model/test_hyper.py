from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from napari_xt.errors import ModelError
from napari_xt.model.context import exact_attention as exact_module
from napari_xt.model.context import hyper_attention as hyper_module
from napari_xt.model.context.exact_attention import exact_attention, one_channel_attention, one_channel_in_parts
from napari_xt.model.context.hyper import Hyper
from napari_xt.model.context.hyper_attention import hyper_attention
from napari_xt.model.tokens import positions
from reference_recipe import weights as made_up

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {"projections": 4, "block": 4, "samples": 3, "exact_below": 8}
EXACT = ["causal_n50_d32", "full_n50_d32", "causal_n257_d128", "causal_n64_scale0.3"]
ENCODERS = [
    "hyper_6x6",
    "hyper_1layer_4x4",
    "hyper_mlp2_hidden384_8x8",
    "naive_6x6",
    "hyper_in_context_16_6x6",
    "hyper_in_context_7_6x6",
    "hyper_in_context_37_equals_sequence_6x6",
    "naive_in_context_16_6x6",
]

# (data, heads, tokens, causal) of the recorded errors; all of them take long
KINDS = ("clustered", "mildly-clustered", "gaussian")
SHORT = [(kind, 2, *c) for kind in KINDS for c in ((1001, True), (1024, False))]
LONG = [(kind, 2, *c) for kind in KINDS for c in ((1024, True), (1000, True), (8192, True), (4096, False))]
LONG_EXACT = [("clustered", 1, *c) for c in ((4096, True), (4097, True), (5001, True), (8190, True), (4095, False))]


def distance(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("attention", [exact_attention, hyper_attention])
@pytest.mark.parametrize("name", EXACT)
def test_the_published_numbers_where_attention_is_exact(name: str, attention: Any, shared: Path) -> None:
    folder = shared / "reference"
    case = json.loads((folder / "hyper_attention_exact.json").read_text())["cases"][name]
    stored = np.load(folder / "hyper_attention_exact.npz")
    data = np.random.Generator(np.random.PCG64(123)).standard_normal((3, *case["shape_b_h_n_d"]))
    q, k, v = torch.from_numpy(data.astype(np.float32)) * torch.tensor([2, 2, 1]).view(3, 1, 1, 1, 1)
    for ours, part in zip(attention(q, k, v, causal=case["causal"], scale=case["scale"]), ("out", "lse"), strict=True):
        summary = case["output" if part == "out" else "lse"]
        strided = ours.flatten()[torch.arange(16) * ours.numel() // 16]
        assert list(ours.shape) == summary["shape"]
        assert ours.norm().item() == pytest.approx(summary["l2"], rel=1e-5)
        assert distance(ours.flatten()[:16], torch.tensor(summary["first16"])) <= 1e-5
        assert distance(strided, torch.tensor(summary["strided16"])) <= 1e-5
        if f"{name}_{part}" in stored:
            assert distance(ours, torch.from_numpy(stored[f"{name}_{part}"])) <= 1e-5


def recorded_data(kind: str, seed: int, heads: int, length: int, dim: int) -> tuple[Tensor, ...]:
    """Queries, keys and values ``(1, heads, length, dim)`` as the page beside the reference files tells."""
    draw = np.random.Generator(np.random.PCG64(seed))
    if kind == "gaussian":
        made = draw.standard_normal((3, heads, length, dim))
    else:
        centres, value_centres = (draw.standard_normal((heads, 32, dim)) for _ in range(2))
        of_query, of_key = (draw.integers(0, 32, size=(heads, length)) for _ in range(2))
        noise = 0.5 * draw.standard_normal((3, heads, length, dim))
        head = np.arange(heads)[:, None]
        spread = 1 if kind == "clustered" else 0.6
        clusters = (spread * centres[head, of_query], spread * centres[head, of_key], value_centres[head, of_key])
        made = np.stack(clusters) + noise
    return tuple(torch.from_numpy(made.astype(np.float32))[:, None])


def errors(ours: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> list[float]:
    """Return what the recorded cases state: of all rows, of the second half, of the median row, of the log-sum-exp."""
    half = exact[0].shape[2] // 2
    rows = (ours[0] - exact[0]).norm(dim=-1) / exact[0].norm(dim=-1)
    second_half = distance(ours[0][:, :, half:], exact[0][:, :, half:])
    return [distance(ours[0], exact[0]), second_half, rows.median().item(), (ours[1] - exact[1]).abs().mean().item()]


@pytest.mark.parametrize(
    "key", [*SHORT, *(pytest.param(key, marks=pytest.mark.slow) for key in (*LONG, *LONG_EXACT))], ids=str
)
def test_the_error_is_no_larger_than_that_of_the_published_code(key: tuple[Any, ...], shared: Path) -> None:
    cases = json.loads((shared / "reference/hyper_attention_approximation.json").read_text())["cases"]
    (case,) = (c for c in cases if (c["data"], c["heads"], c["n"], c["causal"]) == key)
    options = {ours: case[theirs] for ours, theirs in (("projections", "lsh_num_projs"), ("block", "block_size"))}
    options |= {"samples": case["sample_size"], "exact_below": case["min_seq_len"]}
    measured = []
    for seed in case["data_seeds"]:
        data = recorded_data(case["data"], seed, case["heads"], case["n"], case["dim"])
        exact = hyper_attention(*data, causal=case["causal"], exact_below=case["n"] + 1)
        for draw in range(case["projection_seeds_per_data_seed"]):
            ours = hyper_attention(*data, causal=case["causal"], seed=draw, **options)
            measured.append(errors(ours, exact))
    columns = [case["reference_float32"], case["with_sampled_columns_of_own_block_masked"]]
    for i, what in enumerate(("rel_fro", "rel_fro_second_half", "median_row_rel", "mean_abs_lse")):
        allowed = 1.15 * max(column[what]["mean"] for column in columns)
        assert np.mean(measured, axis=0)[i] <= max(allowed, 1e-5), what


def test_no_recorded_case_is_left_out(shared: Path) -> None:
    cases = json.loads((shared / "reference/hyper_attention_approximation.json").read_text())["cases"]
    found = [(c["data"], c["heads"], c["n"], c["causal"]) for c in cases]
    assert sorted(found) == sorted([*SHORT, *LONG, *LONG_EXACT])


@settings(max_examples=25)
@given(st.integers(1, 80), st.integers(1, 80), st.booleans(), st.integers(1, 3), st.integers(1, 2))
def test_exact_attention_in_parts_is_exact(length: int, keys: int, causal: bool, heads: int, batch: int) -> None:
    keys = length if causal else keys
    q, k, v = (
        normal(batch, heads, length, 5),
        normal(batch, heads, keys, 5, seed=1),
        normal(batch, heads, keys, 5, seed=2),
    )
    expected = exact_attention(q, k, v, causal=causal)
    for most in (1, 64, 700, 2**20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exact_module, "CPU_SCORES", most)
            found = hyper_attention(q, k, v, causal=causal)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=25)
@given(st.integers(1, 150), st.integers(1, 150), st.booleans(), st.integers(1, 3), st.integers(1, 2))
def test_blocks_in_groups_are_blocks_at_once(length: int, keys: int, causal: bool, heads: int, batch: int) -> None:
    keys = length if causal else keys
    q, k, v = (
        normal(batch, heads, length, 5),
        normal(batch, heads, keys, 5, seed=1),
        normal(batch, heads, keys, 5, seed=2),
    )
    found = []
    for most in (1, 100, 2**20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exact_module, "CPU_SCORES", most)
            found.append(hyper_attention(q, k, v, causal=causal, **SMALL))
    assert found[0][0].shape == q.shape
    assert found[0][1].shape == (batch, heads, length, 1)
    assert all(torch.isfinite(x).all() for x in found[0])
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, atol=1e-5, rtol=1e-5)


def dense(q: Tensor, k: Tensor, v: Tensor, of_q: Tensor, of_k: Tensor, picks: Tensor, block: int) -> Any:
    """Attention of one problem as a matrix: how often each query counts each key."""
    ordered, order = of_k.sort(stable=True)
    size = math.ceil(len(k) / math.ceil(len(k) / block))
    own = hyper_module._own_place(of_q, ordered)[:, None] // size == torch.arange(len(k)) // size  # (N, M), sorted keys
    drawn = len(k) / len(picks) * picks.bincount(minlength=len(k))
    times = torch.where(own, 1, drawn.float())
    scores = q @ k[order].T + times.log()
    return scores.softmax(-1) @ v[order], scores.logsumexp(-1, keepdim=True)


@settings(max_examples=25)
@given(st.integers(1, 150), st.integers(8, 150), st.booleans(), st.integers(1, 2))
def test_tiles_are_the_matrix_of_what_each_query_counts(length: int, keys: int, causal: bool, heads: int) -> None:
    keys = length if causal else keys
    q, k, v = normal(2, heads, length, 5), normal(2, heads, keys, 5, seed=1), normal(2, heads, keys, 5, seed=2)
    found = hyper_attention(q, k, v, causal=causal, **SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hyper_module, "_block_and_samples", dense)
        expected = hyper_attention(q, k, v, causal=causal, **SMALL)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "causal", "exact"),
    [(32, True, True), (63, True, True), (65, True, False), (31, False, True), (32, False, False)],
)
def test_where_attention_is_exact(length: int, causal: bool, exact: bool) -> None:
    q, k, v = (normal(1, 2, length, 8, seed=i) for i in range(3))
    options = {"block": 4, "samples": 4, "exact_below": 32}
    found = hyper_attention(q, k, v, causal=causal, **options)[0]
    assert torch.allclose(found, exact_attention(q, k, v, causal=causal)[0], atol=1e-5) == exact


def test_every_key_is_counted_once() -> None:
    # of equal keys each has the same weight, so the normaliser is their number: what a block holds is not drawn again
    q, k, v = normal(1, 2, 1024, 8), torch.zeros(1, 2, 1024, 8), torch.ones(1, 2, 1024, 8)
    out, lse = hyper_attention(q, k, v, block=256, samples=64, exact_below=0)
    torch.testing.assert_close(lse, torch.full_like(lse, math.log(1024)))
    torch.testing.assert_close(out, torch.ones_like(out))


def test_places_that_fill_up_the_last_block_count_nothing() -> None:
    q, k, v = normal(1, 1, 1001, 8), torch.zeros(1, 1, 1001, 8), torch.ones(1, 1, 1001, 8)
    out, lse = hyper_attention(q, k, v, block=250, samples=512, exact_below=0)
    torch.testing.assert_close(lse, torch.full_like(lse, math.log(1001)), atol=0.01, rtol=0)
    torch.testing.assert_close(out, torch.ones_like(out))


def test_the_normaliser_is_right_on_average() -> None:
    q, k, v = (normal(1, 1, 300, 4, seed=i, dtype=torch.float64) for i in range(3))
    exact = exact_attention(q, k, v)[1].exp()
    mean = sum(hyper_attention(q, k, v, seed=s, block=20, samples=20, exact_below=0)[1].exp() for s in range(300)) / 300
    torch.testing.assert_close(mean, exact, atol=0, rtol=0.15)
    assert (mean / exact).mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("changed", [5, 29, 30, 31, 59])
def test_no_query_sees_what_comes_after_it(changed: int) -> None:
    q, k, v = (normal(1, 2, 61, 5, seed=i) for i in range(3))
    before = hyper_attention(q, k, v, causal=True, **SMALL)[0]
    q, k, v = (torch.cat([x[:, :, :changed], -x[:, :, changed:]], 2) for x in (q, k, v))
    after = hyper_attention(q, k, v, causal=True, **SMALL)[0]
    torch.testing.assert_close(before[:, :, :changed], after[:, :, :changed], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("causal", [True, False])
def test_the_same_bits_twice_and_no_random_state_is_touched(causal: bool) -> None:
    q, k, v = (normal(2, 2, 333, 8, seed=i) for i in range(3))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = hyper_attention(q, k, v, causal=causal, **SMALL)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    second = hyper_attention(q, k, v, causal=causal, **SMALL)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], hyper_attention(q, k, v, causal=causal, seed=1, **SMALL)[0])


def test_an_item_of_a_batch_does_not_depend_on_the_others() -> None:
    q, k, v = (normal(3, 2, 333, 8, seed=i) for i in range(3))
    together = hyper_attention(q, k, v, **SMALL)[0]
    alone = hyper_attention(q[2:], k[2:], v[2:], **SMALL)[0]
    torch.testing.assert_close(together[2:], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("causal", [True, False])
def test_every_type_gives_about_the_same(dtype: torch.dtype, causal: bool) -> None:
    q, k, v = (normal(1, 2, 700, 16, seed=i).bfloat16().float() for i in range(3))
    for options in ({}, {"block": 32, "samples": 32, "exact_below": 0, "projections": 1}):
        expected = hyper_attention(q, k, v, causal=causal, **options)
        out, lse = hyper_attention(q.to(dtype), k.to(dtype), v.to(dtype), causal=causal, **options)
        assert out.dtype == dtype
        assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.isfinite(out).all()
        if not options:
            assert distance(out.float(), expected[0]) < 0.02


def test_float16_holds_the_sums_of_large_values() -> None:
    q, k, v = torch.zeros(3, 1, 1, 2000, 4, dtype=torch.float16).unbind(0)
    out, _ = hyper_attention(q, k, v + 1000)
    torch.testing.assert_close(out, v + 1000)


def leaves(length: int, keys: int) -> list[Tensor]:
    lengths = (length, keys, keys)
    return [normal(1, 2, n, 3, seed=i, dtype=torch.float64).requires_grad_() for i, n in enumerate(lengths)]


@pytest.mark.parametrize("most", [40, 2**20], ids=["in parts", "at once"])
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_those_of_exact_attention(causal: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_module, "CPU_SCORES", most)
    inputs = leaves(23, 23)
    weights = normal(1, 2, 23, 3, seed=9, dtype=torch.float64)
    found = []
    for attention in (exact_attention, hyper_attention):
        out, lse = attention(*inputs, causal=causal)
        found.append(torch.autograd.grad((out * weights).sum() + lse.square().sum(), inputs))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("length", "keys", "causal"), [(10, 10, False), (3, 9, False), (12, 12, True)])
def test_gradients_of_the_approximation(length: int, keys: int, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_module, "CPU_SCORES", 50)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return hyper_attention(q, k, v, causal=causal, block=3, samples=2, exact_below=0, projections=3)

    assert torch.autograd.gradcheck(attend, leaves(length, keys))


def test_gradients_stay_finite_where_all_samples_are_in_the_own_block() -> None:
    inputs = leaves(40, 40)
    out, lse = hyper_attention(*inputs, block=20, samples=1, exact_below=0)
    for gradient in torch.autograd.grad(out.sum() + lse.sum(), inputs):
        assert torch.isfinite(gradient).all()


def encoded(encoder: Hyper, tokens: Tensor, class_token: Tensor, window: int) -> Tensor:
    """Return the class token after all layers: of the whole sequence, or the mean over windows that overlap by half."""
    class_tokens = class_token.expand(len(tokens), 1, -1)
    sequence = torch.cat([tokens, class_tokens], 1)
    if not 0 < window < sequence.shape[1]:
        return encoder(sequence)[:, -1]
    starts = range(0, tokens.shape[1], window // 2)
    last = [encoder(torch.cat([sequence[:, s : s + window], class_tokens], 1))[:, -1] for s in starts]
    return torch.stack(last).mean(0)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_published_encoders(name: str, shared: Path) -> None:
    case = json.loads((shared / "reference/context_encoder_small.json").read_text())["cases"][name]
    told = case["arguments"]
    weights = {key.removeprefix("decoder."): value for key, value in made_up(case["state_dict"]).items()}
    encoder = Hyper(
        told["hidden_size"],
        told["n_layers"],
        told["hidden_size"] // 128,
        told["mlp_ratio"],
        causal=True,
        attention=told["attention_method"],
    )
    encoder.load_state_dict({key: weight for key, weight in weights.items() if key.startswith("layers.")})
    draw = np.random.Generator(np.random.PCG64(case["feature_seed"]))
    features = torch.from_numpy(draw.standard_normal(case["feature_shape"]).astype(np.float32))
    tokens = F.linear(features.flatten(2).mT, weights["input_proj.weight"], weights["input_proj.bias"])
    tokens = tokens + positions(*features.shape[2:], told["hidden_size"]).flatten(0, 1)
    with torch.no_grad():
        last = encoded(encoder, tokens, weights["cls_token"], told["in_context_patches"])
    logits = F.linear(
        F.layer_norm(last, (told["hidden_size"],), weights["cls.0.weight"], weights["cls.0.bias"]),
        weights["cls.1.weight"],
        weights["cls.1.bias"],
    )
    recorded = torch.tensor(case["logits"])
    for ours, theirs in zip(logits, recorded, strict=True):
        assert distance(ours, theirs) <= 2e-5
    assert distance(last[:, :16], torch.tensor(case["head_in"])) <= 2e-5


def test_the_encoder_takes_a_gradient_through_every_weight() -> None:
    for attention, recurrent in itertools.product(("hyper", "naive"), (False, True)):
        encoder = Hyper(16, 2, 2, attention=attention, recurrent=recurrent)
        encoder(normal(2, 11, 16)).square().sum().backward()
        assert all(weight.grad is not None and weight.grad.any() for weight in encoder.parameters())


def test_recurrent_is_one_layer_again_and_again() -> None:
    once, thrice = Hyper(16, 1, 2), Hyper(16, 3, 2, recurrent=True)
    thrice.load_state_dict(once.state_dict())
    tokens = normal(2, 11, 16)
    torch.testing.assert_close(thrice(tokens), once(once(once(tokens))))


def test_the_causal_encoder_sees_nothing_later_and_the_other_all() -> None:
    for causal in (True, False):
        encoder = Hyper(16, 2, 2, causal=causal)
        tokens = normal(1, 12, 16)
        changed = tokens.clone()
        changed[0, 7] += 1
        differs = (encoder(tokens) != encoder(changed)).any(-1)[0]
        assert differs.tolist() == ([i >= 7 for i in range(12)] if causal else [True] * 12)


@settings(max_examples=10)
@given(st.integers(1, 40), st.integers(1, 2), st.sampled_from(["hyper", "naive"]))
def test_the_encoder_in_parts_is_the_encoder_at_once(length: int, batch: int, attention: Any) -> None:
    encoder = Hyper(12, 1, 3, attention=attention).double()
    tokens = normal(batch, length, 12, dtype=torch.float64)
    found = []
    for most in (150, 2**20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exact_module, "CPU_SCORES", most)
            patch.setattr("napari_xt.model.context.hyper.MLP_TOKENS", most)
            found.append((encoder(tokens), *torch.autograd.grad(encoder(tokens).sum(), list(encoder.parameters()))))
    for small, large in zip(*found, strict=True):
        torch.testing.assert_close(small, large)


@pytest.mark.parametrize("most", [100, 5000, 2**20])
@pytest.mark.parametrize("attention", [one_channel_attention, one_channel_in_parts])
def test_one_channel_attention_is_exact_attention(attention: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_module, "CPU_SCORES", most)
    inputs = [normal(2, 6, 70, 1, seed=i, dtype=torch.float64).requires_grad_() for i in range(3)]
    found, expected = attention(*inputs), exact_attention(*inputs, scale=1.0)[0]
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(out.square().sum(), inputs) for out in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_that_do_not_fit_are_refused(heads: int) -> None:
    with pytest.raises(ModelError, match=f"heads = {heads}: must divide the token width 16"):
        Hyper(16, 1, heads)
    assert len(Hyper(16, 1, heads, attention="naive").layers) == 1


PEAK = """
import sys, torch
from napari_xt.model.context.hyper import Hyper

def told(name):
    with open("/proc/self/status") as status:
        return 1024 * int(next(line for line in status if line.startswith(name)).split()[1])

torch.set_num_threads(1)
torch.set_grad_enabled(False)
encoder = Hyper(64, 1, 1, causal=sys.argv[2] == "causal")
encoder(torch.randn(1, 9000, 64))
tokens = torch.randn(1, int(sys.argv[1]), 64)
before = told("VmRSS")
encoder(tokens)
print(told("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's high-water mark from /proc")
@pytest.mark.parametrize("mask", ["causal", "full"])
def test_memory_grows_with_the_number_of_tokens_and_no_faster(mask: str) -> None:
    peaks = []
    for tokens in (16_384, 65_536, 262_144):
        call = [sys.executable, "-c", PEAK, str(tokens), mask]
        peaks.append(int(subprocess.run(call, capture_output=True, text=True, check=True).stdout))
    slopes = np.diff(peaks) / [49_152, 196_608]
    assert slopes.max() <= 1.4 * slopes.min(), (peaks, slopes)
    assert slopes.max() <= 16 * 4 * 64, "bytes a token: as many as sixteen of it"
