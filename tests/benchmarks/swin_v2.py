"""Swin V2 on one CPU thread: this project's forward against timm's, and both against what a plain matmul reaches.

Times are CPU seconds of one thread, the best of several turns in which both nets run one after the other, so that a
busy machine changes them little. GFLOP/s count matmuls and convolutions alone, as `torch.utils.flop_counter` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import timm
import torch
from figures import Figures, options
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from napari_xt.model.backbone import backbone

MATMULS = {"aten::addmm", "aten::mm", "aten::bmm", "aten::mkldnn_convolution"}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def nets(name: str, side: int) -> tuple[nn.Module, nn.Module]:
    """Return timm's net and ours, with the same weights; norms, which begin with zeros, count."""
    torch.manual_seed(0)
    plain = timm.create_model(name, features_only=True, img_size=side).eval().requires_grad_(False)
    for module in plain.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1)
    ours = backbone(name, 3, side).eval().requires_grad_(False)
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def seconds(runs: list[Callable[[], object]], turns: int) -> list[float]:
    """Return the least CPU time of each, after a turn that does not count."""
    best = [float("inf")] * len(runs)
    for turn in range(turns + 1):
        for i, run in enumerate(runs):
            begin = time.process_time()
            run()
            if turn:
                best[i] = min(best[i], time.process_time() - begin)
    return best


def precise(precision: str) -> AbstractContextManager[object]:
    """Return the context in which nets compute in ``precision``."""
    return torch.autocast("cpu", dtype=PRECISIONS[precision], enabled=precision != "float32")


def ceiling(figures: Figures, precision: str, size: int, turns: int) -> float:
    """Add and return the GFLOP/s of one large matmul."""
    a, b = (torch.randn(size, size, dtype=PRECISIONS[precision]) for _ in range(2))
    (best,) = seconds([lambda: a @ b], turns)
    rate = 2e-9 * size**3 / best
    figures.add(f"swin_v2.matmul.{precision}", rate, "GFLOP/s", size=size)
    return rate


def compare(figures: Figures, name: str, side: int, batch: int, precision: str, top: float, turns: int) -> None:
    """Add how many times faster our forward is, and how far both are from the ceiling."""
    plain, ours = nets(name, side)
    x = torch.randn(batch, 3, side, side)
    with FlopCounterMode(display=False) as counter:
        plain(x)
    work = counter.get_total_flops() / 1e9
    with precise(precision):
        theirs_s, ours_s = seconds([lambda: plain(x), lambda: ours(x)], turns)
        difference = max(_distance(a, b.permute(0, 3, 1, 2)) for a, b in zip(ours(x), plain(x), strict=True))
    figures.add(
        f"swin_v2.{name}.side{side}.batch{batch}.{precision}",
        theirs_s / ours_s,
        "times faster",
        ours_regions_per_s=batch / ours_s,
        timm_regions_per_s=batch / theirs_s,
        ours_gflop_per_s=work / ours_s,
        timm_gflop_per_s=work / theirs_s,
        ours_of_a_matmul=work / ours_s / top,
        timm_of_a_matmul=work / theirs_s / top,
        difference=difference,
    )


def _distance(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.float() - theirs.float()).norm() / theirs.float().norm()).item()


def operations(net: nn.Module, x: Tensor) -> dict[str, float]:
    """Return the time (us) that each of torch's operations took."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        net(x)
    return {event.key: event.self_cpu_time_total for event in seen.key_averages()}


def shares(figures: Figures, name: str, side: int, precision: str, turns: int) -> None:
    """Add where a forward's time goes, timm's and ours: matmuls, fused attention, and passes over memory."""
    for whose, net in zip(("timm", "ours"), nets(name, side), strict=True):
        x = torch.randn(1, 3, side, side)
        with precise(precision):
            spent = min((operations(net, x) for _ in range(turns + 1)), key=lambda times: sum(times.values()))
        whole = sum(spent.values())
        matmul = sum(spent.get(key, 0) for key in MATMULS) / whole
        attention = sum(value for key, value in spent.items() if "flash_attention" in key) / whole
        figures.add(
            f"swin_v2.{name}.side{side}.{precision}.{whose}.rest",
            1 - matmul - attention,
            "of the time",
            matmul=matmul,
            fused_attention=attention,
        )


def main() -> None:
    """Measure."""
    given = options(__doc__).parse_args()
    torch.set_num_threads(1)
    figures = Figures()
    cases = [("swinv2_tiny_window16_256", 256), ("swinv2_tiny_window8_256", 256), ("swinv2_small_window16_256", 256)]
    if given.quick:
        cases = [("swinv2_tiny_window8_256", 64)]
    batches, turns, size = ((1,), 1, 64) if given.quick else ((1, 4), 7, 2048)
    with torch.inference_mode():
        for precision in PRECISIONS:
            top = ceiling(figures, precision, size, turns)
            for name, side in cases:
                for batch in batches:
                    compare(figures, name, side, batch, precision, top, turns)
            shares(figures, *cases[0], precision, turns)
    figures.write(given.json)


if __name__ == "__main__":
    main()
