"""Results given as JSON files, or as folders of these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dit_eval.errors import ResultError
from dit_eval.io.batch_record import RECORD
from dit_eval.io.files import read_json
from dit_eval.io.json_rules import Rule, count, fits
from dit_eval.results.result import Result, read_result

SWEEP = "sweep.json"  # the state of a search, beside the folder of its results


def read_results(paths: Iterable[Path], warnings: list[str]) -> list[Result]:
    """The results of files and folders, see `results_at`; what is given twice counts once."""
    found = {file.resolve(): result for path in paths for file, result in results_at(path, warnings)}
    return list(found.values())


def results_at(path: Path, warnings: list[str]) -> Iterator[tuple[Path, Result]]:
    """The result in a file, or those in a folder by name, each with its file.

    Of a search, those with fewer images than its last round are left out. warnings: gets what a folder holds
    besides. Raises ResultError for a file that is no result.
    """
    if not path.is_dir():
        yield path, read_result(path)
        return
    left_out: dict[Path, int] = {}
    for file in sorted(path.rglob("*.json")):
        try:
            result = read_result(file)
        except ResultError as error:
            # Records of finished and unfinished batches, and the states of searches, stand beside results
            expected = file.parent.suffix == ".partial" or _images_of_last_round(file) is not None
            if not expected and not fits(read_json(file), RECORD):
                warnings.append(f"Left out: {error}")
            continue
        search = file.parent.parent
        if result.samples["n"] < (_images_of_last_round(search / SWEEP) or 0):
            left_out[search] = left_out.get(search, 0) + 1
        else:
            yield file, result
    for search, number in left_out.items():
        warnings.append(
            f"Left out: {number} results of the search in {search}, of fewer images than its last round."
        )


def _is_list(rule: Rule) -> Rule:
    return lambda value: isinstance(value, list) and all(fits(item, rule) for item in value)


_STATE: Rule = {"races": _is_list({"rounds": _is_list({"n": count})})}


def _images_of_last_round(file: Path) -> int | None:
    """The images of each candidate in the last round of a search, 0 before any; None for another file."""
    state = read_json(file) if file.name == SWEEP else {}
    if not fits(state, _STATE):
        return None
    return max((found["n"] for race in state["races"] for found in race["rounds"]), default=0)
