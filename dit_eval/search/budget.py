"""What a search may cost and what it has cost: images, multiply-adds and hours of sampling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dit_eval.errors import UsageError
from dit_eval.results.result import Result


@dataclass(frozen=True)
class Budget:
    """The most that a search may take, fresh images of the winner included; None is no limit.

    hours: of sampling, summed over all processes; evaluation is not counted.
    """

    images: int | None = None
    hours: float | None = None

    @classmethod
    def parse(cls, value: int | str | None) -> Budget:
        """A number of images, or hours such as "24h". Raises UsageError for anything else."""
        if value is None:
            return cls()
        text = str(value).strip()
        if text.isdecimal() and int(text) > 0:
            return cls(images=int(text))
        match = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?h", text)
        if match is None or float(match[1]) <= 0:
            raise UsageError(
                f"the budget {text!r} is neither a number of images, e.g. 200000, nor hours of sampling, "
                "summed over all GPUs, e.g. 24h."
            )
        return cls(hours=float(match[1]))

    def allows(self, images: Mapping[int, int], results: Mapping[int, Result]) -> bool:
        """True if that many images of each candidate are within the budget.

        results: the last one of each candidate, for its speed; a candidate of unknown speed is taken to be as
        fast as the mean of the others.
        """
        if self.images is not None:
            return sum(images.values()) <= self.images
        if self.hours is not None:
            return _hours(images, results) <= self.hours
        return True


def _hours(images: Mapping[int, int], results: Mapping[int, Result]) -> float:
    """Hours of sampling of all processes together, at the speed that the results record."""
    speeds = {number: speed for number, result in results.items() if (speed := result.samples.get("speed"))}
    seconds = {number: speed["seconds"] / speed["images"] for number, speed in speeds.items()}
    mean = sum(seconds.values()) / max(1, len(seconds))
    return sum(count * seconds.get(number, mean) for number, count in images.items()) / 3600
