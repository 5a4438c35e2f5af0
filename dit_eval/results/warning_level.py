"""Which warnings of a result say that its numbers must not be used as they are."""

from __future__ import annotations

from dit_eval.results.result import Result

# Phrases of the evaluation's warnings (see `evaluation.measurement`): too few images, sorted by class
_FATAL = ("the covariance is rank-deficient", "looks sorted by class")
_CUSTOM = (
    "The weights of the feature network are custom, so these are not the numbers of the literature: compare "
    "them only with results of the same weights."
)


def fatal_warnings(result: Result) -> list[str]:
    """The warnings after which a number is wrong, or comparable with hardly any other; see `notes`."""
    custom = [] if result.protocol["weights"]["official"] else [_CUSTOM]
    return custom + [warning for warning in result.warnings if _is_fatal(warning)]


def notes(result: Result) -> list[str]:
    """The other warnings, which a reader should know."""
    return [warning for warning in result.warnings if not _is_fatal(warning)]


def _is_fatal(warning: str) -> bool:
    return any(phrase in warning for phrase in _FATAL)
