"""Results made by hand, to test tables and reports."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from dit_eval.metrics.intervals import normal_quantile
from dit_eval.results.result import Result

METRICS = {"fid": 9.6, "sfid": 6.8, "inception_score": 121.6, "precision": 0.674, "recall": 0.668}


def handmade(
    *,
    model: str | None = "dit-xl-2-256",
    cfg: float = 1.0,
    n: int = 50_000,
    size: int = 256,
    protocol: str = "adm",
    official: bool = True,
    samples: str | Path = "batch.npz",
    reference: str | Path = "imagenet-256",
    reference_n: int = 10_000,
    gmacs: float = 118.6,
    error: float | None = None,
    **metrics: float,
) -> Result:
    """The result of a batch made by `dit-eval sample`, or of another one for `model=None`.

    error: half-width of all intervals, None for a result without intervals.
    """
    measured = METRICS | metrics
    plan = {"model": model, "cfg": cfg, "cfg_channels": "3", "image_size": size, "seed": 0}
    plan |= {"sampler": "ddpm", "steps": "250"}
    drawn: dict[str, Any] = {"plan": plan, "macs": round(gmacs * 1e9)} if model else {}
    return Result(
        metrics=measured,
        measured_against=dict.fromkeys(measured, "stored statistics"),
        missing={},
        protocol={
            "name": protocol,
            "resize": f"{protocol}-resize",
            "network": "inception-2015-12-05",
            "fingerprint": f"{protocol}-fingerprint",
            "weights": {"file": "w.pth", "sha256": "ab"[official] * 64, "official": official},
        },
        samples={"path": str(samples), "n": n, "size": [size, size], "digest": "b" * 64, **drawn},
        reference={
            "path": str(reference),
            "n": reference_n,
            "size": [size, size],
            "statistics": "stored",
            "statistics_sha256": hashlib.sha256(str(reference).encode()).hexdigest(),
        },
        intervals={}
        if error is None
        else {
            name: {"se": error / normal_quantile(), "low": x - error, "high": x + error}
            for name, x in measured.items()
        },
        environment={"dit_eval": "0", "torch": "2", "device": "cpu", "seconds": 1.0},
        warnings=("something to know",),
    )
