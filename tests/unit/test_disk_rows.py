"""Rows on the disk are the rows that were appended."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dit_eval.evaluation.feature_stats import DiskRows
from dit_eval.io.npz import members, write_npz

ROWS = np.random.default_rng(5).standard_normal((5000, 7)).astype(np.float16)


def filled() -> DiskRows:
    spool = DiskRows(7, np.float16)
    for start in range(0, len(ROWS), 999):
        spool.append(ROWS[start : start + 999])
    return spool


def test_any_slice_is_the_arrays() -> None:
    spool = filled()
    assert len(spool) == 5000
    for rows in (slice(0, 3), slice(998, 1001), slice(4990, 9999), slice(None), slice(5000, 6000)):
        assert (spool[rows] == ROWS[rows]).all()
        assert spool[rows].shape == ROWS[rows].shape


def test_it_goes_on_after_it_was_read() -> None:
    spool = filled()
    assert (spool[:1] == ROWS[:1]).all()
    spool.append(ROWS[:2])
    assert (spool[4999:] == ROWS[[4999, 0, 1]]).all()


def test_it_is_written_as_an_array(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {"rows": filled().rows()})
    assert (members(tmp_path / "a.npz")["rows"].read() == ROWS).all()


def test_values_beyond_float16_are_clipped() -> None:
    spool = DiskRows(1, np.float16)
    spool.append(np.array([[1e6]], np.float32))
    assert spool[:][0, 0] == np.finfo(np.float16).max
