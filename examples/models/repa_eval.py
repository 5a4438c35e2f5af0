"""REPA (Yu et al. 2024), https://github.com/sihyun-yu/REPA: run in a checkout of it.

    dit-eval sample --model repa_eval:load --model-arg ckpt=last.pt --sampler sde --steps 250 \
        --state float64 --cfg 1.8 --cfg-times "[0, 0.7]" --rounding truncate --out repa.npz

These are the settings of the command in its README. REPA's networks are also built in: `--model REPA-XL/2
--ckpt last.pt` with the same options needs no checkout.
"""

import torch
from diffusers.models import AutoencoderKL
from models.sit import SiT_models

import dit_eval


def load(ckpt, model="SiT-XL/2", image_size=256, vae="stabilityai/sd-vae-ft-ema", device="cuda", **network):
    settings = {"z_dims": [768], "encoder_depth": 8, "fused_attn": True, "qk_norm": False} | network
    net = SiT_models[model](input_size=image_size // 8, num_classes=1000, use_cfg=True, **settings)
    net.load_state_dict(dit_eval.checkpoint(ckpt, key="ema"))
    net = net.to(device).eval().requires_grad_(False)
    decoder = AutoencoderKL.from_pretrained(vae).to(device).eval()

    def predict(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return net(x, t, y)[0]  # the projections that follow are used in training only

    def decode(z: torch.Tensor) -> torch.Tensor:
        return decoder.decode(z / 0.18215).sample

    shape = (4, image_size // 8, image_size // 8)
    return dit_eval.FlowModel(predict, shape, decode, noise_at=1)
