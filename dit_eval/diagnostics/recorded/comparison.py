"""Differences between recorded and found numbers. A difference is NaN if what was found is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from dit_eval.diagnostics.certificate import CertifiedNumber

# Measures of a difference, as they are called in a certificate
RELATIVE = "relative"
ABSOLUTE = "absolute"
L2 = "L2 norm, relative"  # ‖found − recorded‖ / ‖recorded‖
LARGEST = "largest, of the largest value"  # max |found − recorded| / max |recorded|
ELEMENTWISE = "largest relative"  # max (|found − recorded| / |recorded|)
SHARE_OFF = "share that differs by more than 2e-5"
DIGEST = "digests that differ"


def scalar(
    name: str, recorded: float, found: float | None, tolerance: float, *, measure: str
) -> CertifiedNumber:
    """One number; measure: RELATIVE or ABSOLUTE. None for a number that could not be computed."""
    difference = None
    if found is not None:
        difference = abs(found - recorded) / (abs(recorded) if measure == RELATIVE else 1)
    return CertifiedNumber(
        name=name, expected=recorded, found=found, difference=difference, tolerance=tolerance, measure=measure
    )


def array(
    name: str, recorded: np.ndarray, found: np.ndarray, tolerance: float, *, measure: str
) -> CertifiedNumber:
    """An array of any shape, shown by its L2 norm (measure L2) or its largest absolute value (the others)."""
    expected, values = recorded.astype(np.float64), found.astype(np.float64)
    if expected.shape != values.shape:
        raise AssertionError(f"{name}: recorded {expected.shape}, found {values.shape}")
    size = np.linalg.norm if measure == L2 else np.max
    errors = np.abs(values - expected)
    relative_errors = errors / np.where(expected == 0, 1, np.abs(expected))
    if measure == ELEMENTWISE:
        difference = float(np.max(relative_errors))
    elif measure == SHARE_OFF:
        difference = float(np.mean(~(relative_errors <= 2e-5)))
    else:
        difference = float(size(errors)) / (1 if measure == ABSOLUTE else float(size(np.abs(expected))))
    return CertifiedNumber(
        name=name,
        expected=float(size(np.abs(expected))),
        found=float(size(np.abs(values))),
        difference=difference,
        tolerance=tolerance,
        measure=measure,
    )


def digest(name: str, recorded: Iterable[str], found: Iterable[str]) -> CertifiedNumber:
    """SHA-256 digests, shown as the digest of all of them if there are several."""
    expected, values = list(recorded), list(found)
    return CertifiedNumber(
        name=name,
        expected=_combined(expected),
        found=_combined(values),
        difference=float(sum(a != b for a, b in zip(expected, values, strict=True))),
        tolerance=0,
        measure=DIGEST,
    )


def _combined(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
