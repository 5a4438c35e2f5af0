"""What can go wrong, as a user sees it.

DitEvalError            one sentence: what was expected, what was found, what to do (exit 2)
├── UsageError          options that contradict each other, unknown names
├── BatchError          images that cannot be read: missing key, wrong dtype or shape, damaged file
├── StatisticsError     moments or features from which a number cannot be computed
├── AssetError          weights, references, manifests: missing, damaged, wrong checksum, no network
├── CheckpointError     a checkpoint that is not what the chosen model needs
├── CostError           a model with an operator whose cost is unknown
└── ResultError         results that cannot be read or compared
"""

from __future__ import annotations


class DitEvalError(Exception):
    """Base of every error that is the input's fault and not the program's."""


class UsageError(DitEvalError):
    """Options that contradict each other, or a name that is not registered."""


class BatchError(DitEvalError):
    """A batch of images that cannot be read or written."""


class StatisticsError(DitEvalError):
    """Moments or features from which a number cannot be computed."""


class AssetError(DitEvalError):
    """Weights, references or manifests that are missing, damaged or out of reach."""


class CheckpointError(DitEvalError):
    """A checkpoint that does not fit the model."""


class CostError(DitEvalError):
    """A model uses an operator of which nobody has said what it costs."""


class ResultError(DitEvalError):
    """Results that cannot be read or compared."""
