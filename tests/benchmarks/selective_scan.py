"""The selective scan by blocks against the token loop: ratio of their times and largest difference, in one run.

Times are the best of several turns in which both forms run one after the other. On a machine with other work wall time
says little: with one thread, the ratio of the processor's times stands beside it. Inputs are float32, one sequence, 16
states, steps dt about 0.05 as in a trained layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from figures import Figures, options

from napari_xt.model.context.scan import selective_scan, selective_scan_ref

CHANNELS = 512
STATES = 16
Inputs = tuple[torch.Tensor, ...]
Form = Callable[..., torch.Tensor]


def inputs(length: int, channels: int) -> Inputs:
    """Return u, dt, a, b, c, skip."""
    make = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make)

    dt = torch.nn.functional.softplus(normal(1, length, channels) - 3)
    a = -torch.arange(1, STATES + 1) * torch.exp(0.1 * normal(channels, STATES))
    return normal(1, length, channels), dt, a, normal(1, length, STATES), normal(1, length, STATES), normal(channels)


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Return how long ``run`` takes, by the clock and in processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - processor


def learn(form: Form, given: Inputs) -> None:
    """Run a form forward and backward."""
    leaves = [x.clone().requires_grad_() for x in given]
    form(*leaves).square().sum().backward()


def compare(figures: Figures, length: int, channels: int, turns: int) -> None:
    """Add the ratio of the forward times at one size, and the largest difference."""
    given = inputs(length, channels)
    size = f"L{length}.E{channels}.threads{torch.get_num_threads()}"
    with torch.inference_mode():
        fast, slow = selective_scan(*given), selective_scan_ref(*given)
        add_ratio(figures, f"forward.{size}", lambda form: form(*given), turns, length)
    difference = (fast - slow).abs().max().item()
    figures.add(f"selective_scan.difference.{size}", difference, "", largest_y=slow.abs().max().item())


def compare_learning(figures: Figures, length: int, turns: int) -> None:
    """Add the ratio of the times of forward and backward together."""
    given = inputs(length, CHANNELS)
    size = f"L{length}.E{CHANNELS}.threads{torch.get_num_threads()}"
    add_ratio(figures, f"forward_backward.{size}", lambda form: learn(form, given), turns, length)


def add_ratio(figures: Figures, name: str, run: Callable[[Form], object], turns: int, length: int) -> None:
    """Add how many times faster ``run`` is for the scan by blocks than for the token loop."""
    forms: tuple[Form, ...] = (selective_scan, selective_scan_ref)
    times = [[seconds(lambda form=form: run(form)) for form in forms] for _ in range(turns)]
    (blocks, blocks_cpu), (loop, loop_cpu) = (
        (min(t) for t in zip(*column, strict=True)) for column in zip(*times, strict=True)
    )
    detail = {"blocks_us_per_token": blocks / length * 1e6, "loop_us_per_token": loop / length * 1e6}
    if torch.get_num_threads() == 1:
        detail["processor_ratio"] = loop_cpu / blocks_cpu
    figures.add(f"selective_scan.{name}", loop / blocks, "times faster", **detail)


def main() -> None:
    """Measure with one thread and with all."""
    given = options(__doc__).parse_args()
    lengths = (64, 100) if given.quick else (4096, 16384, 65536)
    widths = () if given.quick else (128, 1024)
    turns = 1 if given.quick else 5
    figures = Figures()
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        for length in lengths:
            compare(figures, length, CHANNELS, turns)
        for channels in widths:
            compare(figures, lengths[0], channels, turns)
        compare_learning(figures, lengths[0] // 4, turns)
    figures.write(given.json)


if __name__ == "__main__":
    main()
