"""The plan of a batch of images: its settings, and the index and label of every image.

Images are sampled in batches of consecutive indices. Rounding may depend on the shape of a batch, so every
batch has the full size: the last one repeats its last index, and the repeated images are discarded.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dit_eval.errors import UsageError, option_name, require_choices, require_positive
from dit_eval.generation.model_lookup import LoadedModel, ObjectSpec, Spec
from dit_eval.generation.models import FlowModel, ImageModel
from dit_eval.io.assets import sha256
from dit_eval.runtime.precision import PRECISIONS
from dit_eval.runtime.rounding import ROUNDINGS
from dit_eval.sampling.flow_schedules import ADAPTIVE_SOLVERS, STATES
from dit_eval.sampling.guidance import parse_times
from dit_eval.sampling.noise import label_words
from dit_eval.sampling.options import OPTIONS, RANGES, require_in_range
from dit_eval.sampling.samplers import SAMPLERS

DEFAULTS = {"cfg": 1.0, "steps": 250, "cfg_channels": "3"}  # Peebles & Xie 2023, Ma et al. 2024
IMAGE_MODEL = "model"  # the sampler in the plan of a model that samples images by itself


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that determines the bytes of a batch; runs with equal plans can share a folder."""

    model: str
    identity: Mapping[str, Any]  # weights or source, see `LoadedModel`
    decoder: str  # see `LoadedModel`
    rounding: str  # the formula by which the decoder's floats become uint8
    image_size: int
    num: int
    seed: int
    labels: str  # see `choose_labels`
    sampler: str
    options: Mapping[str, Any]  # of the sampler and its schedule
    steps: str | None  # None if the solver or the model chooses its own steps
    cfg: float | None  # None if the model applies its own guidance
    cfg_channels: str | None
    cfg_interval: tuple[float, float] | None  # noise levels σ
    cfg_times: str | None  # times of the network, see `guidance.parse_times`
    batch_size: int
    precision: str
    compile: bool
    device: str  # see `_rounding_device`

    def indices(self, batch: int) -> NDArray[np.int64]:
        """The indices of the images of a batch, (batch_size,); those past the end repeat the last one."""
        start = batch * self.batch_size
        return np.minimum(np.arange(start, start + self.batch_size), self.num - 1)

    def as_json(self) -> dict[str, Any]:
        """The plan as it is read back from JSON, with identity and options among the other settings.

        A file of labels is represented by the SHA-256 of its content instead of its path.
        """
        settings = asdict(self)
        if _is_file(self.labels):
            settings["labels"] = f"file {sha256(Path(self.labels))}"
        return json.loads(json.dumps(settings.pop("identity") | settings.pop("options") | settings))


def choose_settings(model: Spec, options: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """Fill in the settings and sampler options that are None: as the model says, else the default.

    options: those of the sampler, see `SAMPLERS`; settings: the fields of `Plan` from `num` to `compile`, and
    `rounding` as a key of `ROUNDINGS`. Returns these fields. Raises UsageError for unknown names, numbers out
    of range, and samplers and options that do not fit the model or each other, TypeError for options that no
    sampler has.
    """
    given = {name: value for name, value in {**settings, **options}.items() if value is not None}
    require_choices(
        precision=(settings["precision"], PRECISIONS),
        rounding=(settings["rounding"], ROUNDINGS),
        cfg_channels=(given.get("cfg_channels", "all"), ("3", "all")),
    )
    require_positive(num=settings["num"], batch_size=settings["batch_size"])
    if not (isinstance(settings["seed"], int) and 0 <= settings["seed"] < 2**64):
        raise UsageError(f"--seed is {settings['seed']!r}; expected an integer from 0 to 2**64 - 1.")
    for name, value in given.items():
        _require_finite(name, value)
    require_in_range(**{name: given[name] for name in RANGES.keys() & given.keys()})
    _require_noise_levels(settings["cfg_interval"])
    _require_known(options.keys() & given.keys())
    settings["batch_size"] = min(settings["batch_size"], settings["num"])
    if isinstance(model, ObjectSpec) and isinstance(model.model, ImageModel):
        return settings | _settings_of_image_model(model.name, model.model, given)
    sampler = given.get("sampler", model.sampler)
    require_choices(sampler=(sampler, SAMPLERS))
    _require_fitting(sampler, model, options.keys() & given.keys())
    require_choices(state=(given.get("state", STATES[0]), STATES))
    defaults = SAMPLERS[sampler].options
    values = {**DEFAULTS, **defaults, **model.defaults, **given}
    steps = settings["steps"] if values.get("solver") in ADAPTIVE_SOLVERS else values["steps"]
    return settings | {
        "sampler": sampler,
        "options": {option: values[option] for option in defaults},
        "steps": None if steps is None else str(steps),
        "cfg": values["cfg"],
        "cfg_channels": values["cfg_channels"],
        "cfg_times": _normalised_times(settings["cfg_times"], settings["cfg_interval"]),
    }


def _normalised_times(times: str | None, interval: tuple[float, float] | None) -> str | None:
    """The interval of times without spaces. Raises UsageError if it is none, or if both are given."""
    if times is None:
        return None
    if interval is not None:
        raise UsageError("--cfg-interval and --cfg-times both say where guidance applies; give one of them.")
    parse_times(times)
    return re.sub(r"\s", "", times)


def _settings_of_image_model(name: str, model: ImageModel, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a model which samples by itself takes over, cfg and steps if it has parameters for
    them.

    Raises UsageError for other settings of a sampler.
    """
    taken = {key: given.get(key, DEFAULTS[key]) for key in ("cfg", "steps") if takes(model.images, key)}
    sampling = {"sampler", "cfg", "steps", "cfg_channels", "cfg_interval", "cfg_times"}.union(
        *OPTIONS.values()
    )
    for option in sorted(sampling & given.keys() - taken.keys()):
        raise UsageError(
            f"{name} samples images by itself and takes no {option_name(option)}. Pass its own settings "
            "to its load function, with --model-arg."
        )
    steps = taken.get("steps")
    if steps is not None and not (str(steps).isdecimal() and int(steps) > 0):
        raise UsageError(f"--steps is {steps} and {name} takes a positive integer.")
    return {
        "sampler": IMAGE_MODEL,
        "options": {},
        "steps": None if steps is None else str(steps),
        "cfg": taken.get("cfg"),
        "cfg_channels": None,
        "cfg_times": None,
    }


def takes(function: Callable[..., Any], parameter: str) -> bool:
    """True if the function has a parameter of that name."""
    return parameter in inspect.signature(function).parameters


def make_plan(settings: Mapping[str, Any], name: str, model: LoadedModel) -> Plan:
    """Add to the settings what identifies the model, its decoder and the device."""
    return Plan(
        **{**settings, "rounding": ROUNDINGS[settings["rounding"]].formula},
        model=name,
        identity=model.identity,
        decoder=model.decoder,
        image_size=model.image_size,
        device=_rounding_device(model.device, settings["precision"], settings["compile"]),
    )


def _rounding_device(device: torch.device, precision: str, compiled: bool) -> str:
    """What processes must have in common to share a batch: "cpu", "cuda", or the model of the card.

    The kernels that compute in TF32 or bfloat16, and those that are compiled, depend on the card.
    """
    if device.type == "cuda" and (compiled or precision != "fp32"):
        return torch.cuda.get_device_name(device)
    return device.type


def choose_labels(spec: str, *, num: int, num_classes: int, seed: int) -> NDArray[np.int64]:
    """The class of every image, (num,) int64; the class of image i depends only on (seed, i) and `spec`
    (with "sorted", on `num` too).

    spec: "uniform" draws every label independently, as DiT does; "balanced" goes through random permutations
    of all classes, so that class counts differ by at most one; "sorted" has the same counts in order of
    class, as MAR and JiT; a number is the class of all images; anything else is a text file with one label
    per image. Raises UsageError for labels that cannot be read or classes that the model does not have.
    """
    if spec == "sorted":
        return np.arange(num) * num_classes // num
    if spec in ("uniform", "balanced"):
        rounds = -(-num // num_classes)
        words = label_words(seed, torch.arange(rounds * num_classes)).numpy()
        if spec == "uniform":
            return words[:num] * num_classes >> 32
        permutations = words.reshape(-1, num_classes).argsort(axis=1, kind="stable")
        return permutations.reshape(-1)[:num]
    labels = _read_labels(Path(spec), num) if _is_file(spec) else np.full(num, int(spec))
    invalid = labels[(labels < 0) | (labels >= num_classes)]
    if len(invalid):
        raise UsageError(
            f"class {invalid[0]} does not exist: the model has {num_classes}, 0 to {num_classes - 1}."
        )
    return labels


def require_extendable(labels: str) -> None:
    """Raise UsageError for labels of which the first ones depend on the number of images."""
    if labels == "sorted" or _is_file(labels):
        raise UsageError(
            f"a batch with --labels {labels} cannot be extended: the label of an image would depend on the "
            "number of images. Choose uniform, balanced or a class index."
        )


def _is_file(labels: str) -> bool:
    return labels not in ("uniform", "balanced", "sorted") and not labels.isdecimal()


def _read_labels(path: Path, num: int) -> NDArray[np.int64]:
    try:
        labels = np.array(path.read_text("utf-8").split(), dtype=np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"--labels {path} cannot be read ({getattr(error, 'strerror', None) or error}). "
            "Choose uniform, balanced, sorted, a class index, or a text file with one label per image."
        ) from None
    if len(labels) != num:
        raise UsageError(f"{path} holds {len(labels)} labels for {num} images; it must have one per image.")
    return labels


def _require_finite(name: str, value: Any) -> None:
    """Raise UsageError for NaN and infinity, which JSON cannot hold: value may be a number or several."""
    numbers = value if isinstance(value, (tuple, list)) else (value,)
    if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
        raise UsageError(f"{option_name(name)} is {value}; expected finite numbers.")


def _require_noise_levels(interval: object) -> None:
    """Raise UsageError unless the interval of guidance is None or two numbers in ascending order."""
    if interval is None:
        return
    match interval:
        case (int() | float() as low, int() | float() as high) if low <= high:
            pass
        case _:
            raise UsageError(
                f"--cfg-interval is {interval!r}; expected two noise levels, LO ≤ HI, e.g. 0.3 and 5."
            )


def _require_known(options: Collection[str]) -> None:
    for option in sorted(options):
        if not any(option in candidate.options for candidate in SAMPLERS.values()):
            raise TypeError(f"generate() got an unexpected keyword argument {option!r}")


def _require_fitting(sampler: str, model: Spec, options: Collection[str]) -> None:
    network = model.model if isinstance(model, ObjectSpec) else None
    predicted = network.prediction if isinstance(network, FlowModel) else "velocity"  # bundled: no average
    averages = predicted == "average-velocity"
    if model.family not in (None, SAMPLERS[sampler].family):
        family = [name for name, candidate in SAMPLERS.items() if candidate.family == model.family]
        fitting = [name for name in family if (name == "meanflow") == averages]
        raise UsageError(
            f"sampler {sampler} does not fit {model.name}, which is a {model.family} model. "
            f"Choose {' or '.join(fitting)}, or another model."
        )
    if (sampler == "meanflow") != averages:
        raise UsageError(
            f"sampler {sampler} does not fit {model.name}, which predicts {predicted}. Average "
            "velocities are sampled by meanflow, and nothing else is."
        )
    for option in sorted(options):
        if option not in SAMPLERS[sampler].options:
            owners = [name for name, candidate in SAMPLERS.items() if option in candidate.options]
            raise UsageError(
                f"{option_name(option)} is an option of {' and '.join(owners)}, not of {sampler}."
            )
