#!/usr/bin/env python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Demand for the benches: a shape, a noise and a seed make a file `t_seconds,rooms` with a row per minute.

Two noises: `calls` is a crowd of rooms that each last 30 minutes on average, so a surplus fades slowly; `counts` is an independent count each
minute, so there is nothing to learn from the last one. In both the number of rooms scatters by the root of its mean.
"""
from __future__ import annotations

import argparse
import math
import pathlib
import random
import sys
import typing as t

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from shapes import DAY, SHAPES  # noqa: E402  pylint: disable=wrong-import-position

STAY = math.exp(-1 / 30)  # share of the rooms that are still there a minute later
NOISES = ("calls", "counts")


def poisson(rand: random.Random, mean: float) -> int:
    if mean > 40:
        return max(0, round(rand.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), rand.random(), 0
    while product > limit:
        product *= rand.random()
        count += 1
    return count


def binomial(rand: random.Random, count: int, share: float) -> int:
    if count * share * (1 - share) > 9:
        return min(count, max(0, round(rand.gauss(count * share, math.sqrt(count * share * (1 - share))))))
    return sum(rand.random() < share for _one in range(count))


def noisy(rand: random.Random, means: t.Sequence[float], noise: str) -> list[int]:
    if noise == "counts":
        return [poisson(rand, mean) for mean in means]
    rooms = poisson(rand, means[0])
    found = [rooms]
    for before, now in zip(means, means[1:]):
        stay = min(STAY, now / before if before > 0 else 0.0)
        rooms = binomial(rand, rooms, stay) + poisson(rand, max(0.0, now - before * stay))
        found.append(rooms)
    return found


def demand(shape: str, seed: int, noise: str = "calls", weeks: int = 5, peak: float = 800.0) -> list[tuple[int, int]]:
    """[(t_seconds, rooms)], one per minute."""
    rand = random.Random(f"{shape}/{noise}/{seed}")
    means = SHAPES[shape](rand, weeks * 7, peak)
    return [(60 * number, rooms) for number, rooms in enumerate(noisy(rand, means, noise))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="smooth")
    parser.add_argument("--noise", choices=NOISES, default="calls")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weeks", type=int, default=5)
    parser.add_argument("--peak", type=float, default=800.0, help="rooms at the top of the shape")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    rows = demand(args.shape, args.seed, args.noise, args.weeks, args.peak)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("t_seconds,rooms\n" + "".join(f"{at},{rooms}\n" for at, rooms in rows), encoding="utf-8")
    print(f"{args.out}: {len(rows)} minutes, {len(rows) // DAY} days, at most {max(rooms for _at, rooms in rows)} rooms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
