"""Run DiT's models.py and diffusion/, in an environment of their own: `run_dit OUT.npz`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from dit_eval.diagnostics.recorded import dit_weights, inception_weights
from dit_eval.diagnostics.recorded.dit_weights import CONFIGS, noise
from tools.record import quantities

Arrays = dict[str, Any]  # tensors or arrays, by their names in dit.npz

FEW = ("betas", "alphas_cumprod", "posterior_variance")
ALL = (
    *("betas", "alphas_cumprod", "alphas_cumprod_prev"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
    *("sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
)
TABLES = {"1000": ALL, "250": ALL, "10": FEW, "ddim10": FEW}
SPACINGS = ("1", "2", "50", "100", "500", "1000", *(f"ddim{n}" for n in (2, 25, 50, 100, 250)), "10,15,20")
CHAINS: dict[str, tuple[str, str, dict[str, float]]] = {  # tag → (respacing, sampler, its options)
    "p10": ("10", "p_sample", {}),
    "p10_nocfg": ("10", "p_sample", {}),
    "p10_clip": ("10", "p_sample", {}),
    "ddim10_eta0": ("ddim10", "ddim_sample", {"eta": 0.0}),
    "ddim10_eta1": ("ddim10", "ddim_sample", {"eta": 1.0}),
    "p_ddim10": ("ddim10", "p_sample", {}),
    "ddim_10_eta0": ("10", "ddim_sample", {"eta": 0.0}),
    "p250": ("250", "p_sample", {}),
    "ddim250_eta0": ("250", "ddim_sample", {"eta": 0.0}),
    "p10_near": ("10", "p_sample", {}),
    "ddim10_eta0_near": ("ddim10", "ddim_sample", {"eta": 0.0}),
    "ddim10_eta1_near": ("ddim10", "ddim_sample", {"eta": 1.0}),
    "p250_near": ("250", "p_sample", {}),
}
SHAPE = (4, 4, 8, 8)  # of the latents: four, or two guided ones
CFG_SCALE = 1.5
NULL_CLASS = 10  # of the small model


def load(model: Any, name: str) -> Any:
    """The model with its synthetic weights; the table of positions is the model's own."""
    weights = {key: torch.from_numpy(value) for key, value in dit_weights.build(CONFIGS[name]).items()}
    different = model.load_state_dict(weights, strict=False)
    assert different.missing_keys == ["pos_embed"], different
    assert not different.unexpected_keys, different
    return model.eval()


def forward_passes(model: Any, name: str, n: int) -> Arrays:
    """Plain and guided, of n latents."""
    config = CONFIGS[name]
    x = torch.from_numpy(noise(f"{name}/x", 0, (n, 4, config.input_size, config.input_size)))
    t = torch.tensor([0, 999, 501, 7][:n])
    y = torch.tensor([3, config.num_classes, 0, 9][:n])
    cfg_t = torch.full((n,), 400)
    cfg_y = torch.tensor([*range(3, 3 + n // 2), *[config.num_classes] * (n // 2)])
    return {
        f"{name}_x": x,
        f"{name}_t": t,
        f"{name}_y": y,
        f"{name}_forward": model(x, t, y),
        f"{name}_cfg_t": cfg_t,
        f"{name}_cfg_y": cfg_y,
        f"{name}_forward_cfg_1.5": model.forward_with_cfg(x, cfg_t, cfg_y, cfg_scale=CFG_SCALE),
    }


def embeddings(small: Any) -> Arrays:
    """Of positions and times, and a pass at fractional times."""
    times = torch.tensor([0, 1, 500, 999])
    x, y = torch.from_numpy(noise("small/x", 0, SHAPE)), torch.tensor([3, NULL_CLASS, 0, 9])
    return {
        "small_pos_embed": small.pos_embed[0],
        "small_forward_fractional_t": small(x, torch.tensor([0.0, 0.25, 998.5, 37.125]), y),
        "small_t_frequencies": small.t_embedder.timestep_embedding(times, 256),
        "small_t_embedding": small.t_embedder(times),
    }


def schedules(diffusion: Any, respace: Any) -> Arrays:
    """Tables of four schedules, and the timesteps that respacing chooses."""
    arrays: Arrays = {}
    for steps, tables in TABLES.items():
        process = diffusion.create_diffusion("" if steps == "1000" else steps)
        arrays |= {f"table_{steps}_{table}": getattr(process, table) for table in tables}
        arrays[f"table_{steps}_timestep_map"] = np.array(process.timestep_map)
    for steps in SPACINGS:
        arrays[f"timesteps_{steps}"] = np.array(sorted(respace.space_timesteps(1000, steps)))
    arrays["timesteps_300_10,15,20"] = np.array(sorted(respace.space_timesteps(300, [10, 15, 20])))
    arrays["cosine_1000_betas"] = diffusion.create_diffusion("", noise_schedule="squaredcos_cap_v2").betas
    return arrays


def posteriors(diffusion: Any, small: Any) -> Arrays:
    """Noised latents, the moments of the step back given the data, and given the model."""
    process = diffusion.create_diffusion("250")
    start, t = torch.from_numpy(noise("q/x0", 0, SHAPE)), torch.tensor([0, 1, 120, 249])
    x = process.q_sample(start, t, torch.from_numpy(noise("q/noise", 0, SHAPE)))
    mean, variance, log_variance = process.q_posterior_mean_variance(start, x, t)
    _, marginal_variance, marginal_log_variance = process.q_mean_variance(start, t)
    arrays = {
        "q_t": t,
        "q_sample": x,
        "q_posterior_mean": mean,
        "q_posterior_variance": variance[:, 0, 0, 0],
        "q_posterior_log_variance": log_variance[:, 0, 0, 0],
        "q_variance": marginal_variance[:, 0, 0, 0],
        "q_log_variance": marginal_log_variance[:, 0, 0, 0],
    }
    labels = {"y": torch.tensor([1, 2, NULL_CLASS, 4])}
    for clip in (False, True):
        moments = process.p_mean_variance(small.forward, x, t, clip_denoised=clip, model_kwargs=labels)
        for key in ("mean", "variance", "log_variance", "pred_xstart"):
            arrays[f"p_mean_variance_clip{int(clip)}_{key}"] = moments[key]
    return arrays


def chain(diffusion: Any, small: Any, tag: str) -> Arrays:
    """The states of a chain: all of ten steps, or the first and last three of 250."""
    steps, sampler, options = CHAINS[tag]
    process = diffusion.create_diffusion(steps)
    z, y = torch.from_numpy(noise(f"{tag}/z", 0, (2, *SHAPE[1:]))), torch.tensor([3, 7])
    model, conditions = small.forward, {"y": y}
    if not tag.endswith("_nocfg"):
        z, y = torch.cat([z, z]), torch.cat([y, torch.full((2,), NULL_CLASS)])
        model = near(small) if tag.endswith("_near") else small.forward_with_cfg
        conditions = {"y": y, "cfg_scale": CFG_SCALE}
    loop = getattr(process, f"{sampler}_loop_progressive")
    with patch.object(torch, "randn_like", recorded_noise(tag)):
        clip = tag.endswith("_clip")
        states = list(
            loop(model, z.shape, z, clip_denoised=clip, model_kwargs=conditions, device="cpu", **options)
        )
    n = len(states)
    kept = list(range(n)) if n <= 10 else [0, 1, 2, n - 3, n - 2, n - 1]
    arrays: Arrays = {
        f"chain_{tag}_steps": np.array(kept),
        f"chain_{tag}_sample": torch.stack([states[i]["sample"] for i in kept]),
    }
    if n <= 10:
        predictions = [states[i]["pred_xstart"] for i in (0, -2, -1)]
        arrays[f"chain_{tag}_pred_xstart"] = torch.stack(predictions)
    return arrays


def near(small: Any) -> Callable[..., torch.Tensor]:
    """The guided model with a predicted noise close to its input, so that chains stay of order one."""

    def model(x: torch.Tensor, t: torch.Tensor, **conditions: Any) -> torch.Tensor:
        output = small.forward_with_cfg(x, t, **conditions)
        return torch.cat([0.97 * x + 0.2 * output[:, :4], output[:, 4:]], dim=1)

    return model


def recorded_noise(tag: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """In place of torch.randn_like: the noise of step after step of the chain `tag`."""
    draws: Iterator[int] = iter(range(1000))
    return lambda x: torch.from_numpy(noise(tag, next(draws), tuple(x.shape)))


def pixels() -> Arrays:
    """Values at the edges of grey levels, and the levels by the formula of DiT's sample_ddp.py."""
    edges = [-2.0, -1.0039370, -1.0, -0.9999, -0.5, 0.0, 0.0039, 0.00392157, 0.5, 0.9999, 1.0, 1.2]
    values = torch.cat([torch.tensor(edges), torch.linspace(-1.1, 1.1, 400)])
    return {
        "pixels_in": values,
        "pixels_out": torch.clamp(127.5 * values + 128.0, 0, 255).to("cpu", dtype=torch.uint8),
    }


def main(out: Path) -> None:
    """Write all arrays of dit.npz, and the digests of the weights, to `out`."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    models, diffusion = importlib.import_module("models"), importlib.import_module("diffusion")
    small = load(models.DiT(**asdict(CONFIGS["small"])), "small")
    s8 = load(models.DiT_models["DiT-S/8"](input_size=32, num_classes=1000), "S8")
    arrays = forward_passes(small, "small", 4) | forward_passes(s8, "S8", 2) | embeddings(small)
    arrays |= schedules(diffusion, importlib.import_module("diffusion.respace"))
    arrays |= posteriors(diffusion, small)
    for tag in CHAINS:
        arrays |= chain(diffusion, small, tag)
    arrays["noise_p10"] = np.stack([noise("p10", step, SHAPE) for step in range(10)])
    arrays["noise_p10_z"] = noise("p10/z", 0, (2, *SHAPE[1:]))
    arrays |= pixels()
    digests = {name: inception_weights.digest(dit_weights.build(CONFIGS[name])) for name in CONFIGS}
    quantities.save(out, dit=arrays, expected={"sha256": {"dit_weights": digests}})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
