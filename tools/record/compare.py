"""Compare what was recorded now with what is stored, by the tolerances of tests/golden/README.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dit_eval.report.terminal import dense_table, render_text
from tools.record.quantities import Quantities

Measure = Callable[[np.ndarray, np.ndarray], float]  # (now, recorded) → deviation


class Tolerance(NamedTuple):
    """How a deviation is measured, and the largest that is accepted (None: any, it is for information)."""

    measure: Measure
    limit: float | None


Rule = tuple[str, tuple[Tolerance, ...]]  # regular expression of the whole name of a quantity


def entries(now: np.ndarray, recorded: np.ndarray) -> float:
    """Number of entries that differ."""
    return float((now != recorded).sum())


def relative(now: np.ndarray, recorded: np.ndarray) -> float:
    """Largest relative difference."""
    return float(_relative(now, recorded).max())


def of_largest(now: np.ndarray, recorded: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    return absolute(now, recorded) / float(np.abs(recorded).max())


def absolute(now: np.ndarray, recorded: np.ndarray) -> float:
    """Largest difference."""
    return float(np.abs(now - recorded).max())


def l2(now: np.ndarray, recorded: np.ndarray) -> float:
    """Norm of the difference, relative to the norm."""
    return float(np.linalg.norm(now - recorded) / np.linalg.norm(recorded))


def classes(now: np.ndarray, recorded: np.ndarray) -> float:
    """Number of rows whose largest entry is another."""
    return float((now.argmax(axis=1) != recorded.argmax(axis=1)).sum())


def share_apart(now: np.ndarray, recorded: np.ndarray) -> float:
    """Share of entries that differ by more than float32 sums do."""
    return float((_relative(now, recorded) > FLOAT32_SUMS).mean())


def _relative(now: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """|now − recorded| / |recorded|, 0 where both are equal."""
    difference = np.abs(now - recorded)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / np.abs(recorded))


FLOAT32_SUMS = 2e-5  # relative, of sums over 2,048 features
RANK = 2048  # features; with fewer images, covariances are singular
EXACT = (Tolerance(entries, 0),)
INFORMATION = (Tolerance(relative, None),)
RULES: tuple[Rule, ...] = (  # for floating-point numbers; everything else must be equal
    (r"tensorflow_features/(pool|spatial)_.*", (Tolerance(l2, 2e-5), Tolerance(absolute, 2e-4))),
    (r"tensorflow_features/softmax_.*", (Tolerance(absolute, 1e-4), Tolerance(classes, 0))),
    (r"knn_radii/.*_f64", (Tolerance(relative, FLOAT32_SUMS),)),
    (r"knn_radii/.*_f16_f32acc", (Tolerance(share_apart, 0.01),)),
    (r"knn_radii/.*_adm", INFORMATION),
    (r"dit/(small_x|S8_x|noise_.*|pixels_in)|sit/(x|t|path_(t|x1|velocity)|ode_.*_first)", EXACT),
    (r"dit/(table_.*|cosine_1000_betas)", (Tolerance(relative, 1e-12),)),
    (r"dit/(small|S8)_(forward|forward_fractional_t|pos_embed|t_.*)", (Tolerance(of_largest, 2e-6),)),
    (r"dit/((small|S8)_forward_cfg_.*|q_.*|p_mean_variance_.*|chain_.*)", (Tolerance(of_largest, 1e-5),)),
    (r"sit/forward", (Tolerance(of_largest, 2e-6),)),
    (r"sit/path_.*_diffusion_.*", (Tolerance(relative, 1e-4),)),
    (r"sit/path_.*", (Tolerance(of_largest, 2e-5),)),
    (r"sit/ode_.*_dopri5_.*", (Tolerance(of_largest, 1e-3),)),
    (r"sit/(forward_cfg_.*|ode_.*|sde_.*)", (Tolerance(of_largest, 1e-5),)),
    (r"repa_jit_samplers/repa_.*", (Tolerance(of_largest, 1e-6),)),
    (r"repa_jit_samplers/jit_.*", (Tolerance(of_largest, 1e-5),)),
    (r"encoders/dinov2_positions", (Tolerance(of_largest, 1e-6),)),
    (r"encoders/.*_fp32_.*", (Tolerance(l2, 1e-5),)),
    (r"encoders/.*_bf16_.*", (Tolerance(l2, 2e-2),)),
)


def all_rules(recorded: Quantities) -> list[Rule]:
    """RULES, and those whose tolerance depends on what was recorded, which come first.

    The evaluator's numbers depend on how many images each case has. A prediction of x₀ is rounded before it
    is clipped to −1 … 1, so it may be one rounding step of the largest unclipped value off.
    """
    rules = []
    if (unclipped := recorded.get("dit/p_mean_variance_clip0_pred_xstart")) is not None:
        step = float(np.spacing(np.abs(unclipped).max()))
        rules.append((r"dit/p_mean_variance_clip1_pred_xstart", (Tolerance(absolute, step),)))
    rules += RULES
    names = {"/".join(name.split("/")[:3]) for name in recorded if name.startswith("expected/evaluator_on_")}
    for case in sorted(names):
        on_images = case.startswith("expected/evaluator_on_images/")
        if on_images:
            n_ref = n_samples = int(case.rpartition("/")[2])
        else:
            n_ref, n_samples = (int(recorded[f"{case}/{key}"]) for key in ("n_ref", "n_samples"))
        sqrtm = 5e-6 if min(n_ref, n_samples) <= RANK else 1e-6
        score, exact = (sqrtm, sqrtm) if on_images else (1e-6, 1e-10)
        rules += [
            (f"{case}/adm_evaluator/s?fid", (Tolerance(relative, sqrtm),)),
            (f"{case}/adm_evaluator/inception_score(_ref)?", (Tolerance(relative, score),)),
            (f"{case}/adm_evaluator/(precision|recall)", INFORMATION),
            (f"{case}/exact_float64/.*", (Tolerance(relative, exact),)),
            (f"{case}/precision_recall/.*/precision", (Tolerance(absolute, 1 / n_samples + 1e-9),)),
            (f"{case}/precision_recall/.*/recall", (Tolerance(absolute, 1 / n_ref + 1e-9),)),
        ]
    return rules


def tolerances(name: str, recorded: np.ndarray, rules: list[Rule]) -> tuple[Tolerance, ...]:
    """How a quantity is compared. Raises LookupError if no rule says so."""
    if re.fullmatch(r"expected/(cpu|programs/.*/versions/.*)", name):
        return (Tolerance(entries, None),)
    if recorded.dtype.kind != "f":
        return EXACT
    for pattern, found in rules:
        if re.fullmatch(pattern, name):
            return found
    raise LookupError(f"no tolerance is known for {name}")


@dataclass(frozen=True)
class Comparison:
    """A quantity beside the recorded one; `now` is None if it was not recorded this time."""

    name: str
    recorded: np.ndarray | None
    now: np.ndarray | None
    deviation: float
    tolerance: Tolerance

    @property
    def agrees(self) -> bool:
        """True if the deviation is within the tolerance, or the quantity is for information."""
        return self.tolerance.limit is None or self.deviation <= self.tolerance.limit


def compare(now: Quantities, recorded: Quantities) -> Iterator[Comparison]:
    """All quantities of both, in the order of the recorded ones; two rows for one with two tolerances."""
    rules = all_rules(recorded)
    for name in recorded | now:
        before, after = recorded.get(name), now.get(name)
        if (
            before is None
            or after is None
            or (before.shape, before.dtype.kind) != (after.shape, after.dtype.kind)
        ):
            yield Comparison(name, before, after, np.inf, EXACT[0])
            continue
        for tolerance in tolerances(name, before, rules):
            numeric = before.dtype.kind == "f"
            deviation = (
                tolerance.measure(after, before) if before.size and numeric else entries(after, before)
            )
            yield Comparison(name, before, after, deviation, tolerance)


def table(comparisons: list[Comparison]) -> str:
    """One line for each comparison; what disagrees is marked."""
    text = dense_table()
    for heading in ("", "quantity", "recorded", "now", "deviation", "tolerance"):
        text.add_column(heading, no_wrap=True, justify="right" if heading == "deviation" else "left")
    for row in comparisons:
        text.add_row(
            "" if row.agrees else "!",
            row.name,
            summary(row.recorded),
            summary(row.now),
            f"{row.deviation:.2g}",
            "for information"
            if row.tolerance.limit is None
            else f"{row.tolerance.limit:.3g} {label(row.tolerance)}",
        )
    return render_text(text, width=200)


def label(tolerance: Tolerance) -> str:
    """The name of the measure of a deviation."""
    return tolerance.measure.__name__.replace("_", " ")


def summary(value: np.ndarray | None) -> str:
    """A number in full, a long text cut short, and an array as its shape and norm."""
    if value is None:
        return "missing"
    if value.dtype.kind == "U":
        return ", ".join(str(text)[:24] for text in np.unique(value))
    if value.ndim == 0:
        return str(value)
    return f"{'×'.join(map(str, value.shape))}, norm {np.linalg.norm(value.astype(np.float64)):.8g}"
