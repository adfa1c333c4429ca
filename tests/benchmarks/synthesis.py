"""Twins per second of mixed anomalies synthesis; run by hand: ``python tests/benchmarks/synthesis.py``."""

import argparse
import statistics
import time

import torch

from mssf_lite.synthesis import KINDS, MAS, SHAPES


def twins_per_second(mas: MAS, images: torch.Tensor, rounds: int) -> list[float]:
    """One speed for each round; a first round, which warms up, is not counted."""
    generator = torch.Generator().manual_seed(0)
    speeds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        mas(images, generator).masks.sum().item()  # .item() waits for a GPU
        speeds.append(len(images) / (time.perf_counter() - start))
    return speeds[1:]


def main() -> None:
    """Prints median and spread for the whole mix, then for each shape and each kind alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="side of the square images in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32], help="images in a call")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=20, help="timed calls in a row")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for batch in args.batches:
        images = torch.rand(batch, 3, args.size, args.size, device=args.device)
        cases = {"all": MAS()}
        if batch == args.batches[-1]:
            cases |= {f"shape {name}": MAS(shapes=name) for name in SHAPES}
            cases |= {f"kind {name}": MAS(kinds=name) for name in KINDS}
        for name, mas in cases.items():
            speeds = sorted(twins_per_second(mas, images, args.rounds))
            low, middle, high = speeds[0], statistics.median(speeds), speeds[-1]
            print(f"batch {batch:3d}  {name:16s} {middle:6.0f} twins/s  ({low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()
