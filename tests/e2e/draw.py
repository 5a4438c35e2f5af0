"""One process of a run on the tiny model: python -m tests.e2e.draw OUT WEIGHTS [K/N]."""

from __future__ import annotations

import sys

from dit_eval.generation.pipeline import generate
from tests.tiny import CONFIG

BATCHES = 60


def main(out: str, weights: str, shard: str = "1/1") -> None:
    part, parts = map(int, shard.split("/"))
    options = {"num": 4 * BATCHES - 1, "batch_size": 4, "steps": 40, "cfg": 1.5, "device": "cpu"}
    generate(CONFIG, ckpt=weights, out=out, shard=(part, parts), **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
