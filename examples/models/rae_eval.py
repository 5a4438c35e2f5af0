"""RAE (Zheng et al. 2025), https://github.com/bytetriper/RAE: run in a checkout of it, with the
versions in its requirements.txt (newer ones of transformers refuse the configuration of its decoder).

    PYTHONPATH=src dit-eval sample --model rae_eval:load \
        --model-arg config=configs/stage2/sampling/ImageNet256/DiTDHXL-DINOv2-B_AG.yaml --sampler ode \
        --solver euler --steps 49 --shift 6.9282 --cfg 1.42 --labels balanced \
        --rounding truncate --out rae.npz

These are the settings of that configuration, which names the checkpoints; with a guidance_model in it,
guidance is away from that model (autoguidance). The shift is √(768 · 16 · 16 / 4096); its 50 steps are 50
times and 49 evaluations. RAE's own sampler ends at t = 0.0069 (0.001 before the shift), ours at t = 0.
"""

import torch
from omegaconf import OmegaConf
from utils.model_utils import instantiate_from_config
from utils.train_utils import parse_configs

import dit_eval


def load(config, device="cuda"):
    stage1, stage2, *_, guidance, misc, _, _ = parse_configs(OmegaConf.load(config))
    rae, net = (
        instantiate_from_config(part).to(device).eval().requires_grad_(False) for part in (stage1, stage2)
    )
    for part in (stage1, stage2):
        for path in (part.get("ckpt"), part.get("params", {}).get("pretrained_decoder_path")):
            if path:
                dit_eval.checkpoint(path)  # loaded above; here it becomes part of the plan
    guide = None
    if guidance and guidance.get("guidance_model"):
        guide = instantiate_from_config(guidance["guidance_model"]).to(device).eval().requires_grad_(False)

    def decode(z: torch.Tensor) -> torch.Tensor:
        return rae.decode(z)

    shape = tuple(int(size) for size in dict(misc or {}).get("latent_size", (768, 16, 16)))
    return dit_eval.FlowModel(net, shape, decode, noise_at=1, guide=guide, value_range=(0, 1))
