"""LightningDiT (Yao & Wang 2025), https://github.com/hustvl/LightningDiT: run in a checkout of it.

    dit-eval sample --model lightningdit_eval:load --model-arg ckpt=lightningdit-xl-imagenet256-800ep.pt \
        --model-arg vae=vavae-imagenet256-f16d32-dinov2.pt --model-arg stats=latents_stats.pt \
        --sampler ode --solver euler --steps 249 --shift 0.3 --cfg 6.7 --cfg-channels 3 \
        --cfg-times "[0.125, 1]" --out lightningdit.npz

Its modules also import fairscale and einops, and compile the network with torch.compile. These are the
settings of configs/reproductions/lightningdit_xl_vavae_f16d32_800ep_cfg.yaml; its 250 steps are 250 times and
249 evaluations.
"""

import torch
from models.lightningdit import LightningDiT_models
from tokenizer.autoencoder import AutoencoderKL

import dit_eval


def load(ckpt, vae, stats, model="LightningDiT-XL/1", multiplier=1.0, device="cuda", **network):
    settings = {"use_swiglu": True, "use_rope": True, "use_rmsnorm": True, "in_channels": 32} | network
    net = LightningDiT_models[model](input_size=16, num_classes=1000, **settings)
    weights = dit_eval.checkpoint(ckpt, key="ema")
    net.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
    net = net.to(device).eval().requires_grad_(False)
    decoder = AutoencoderKL(embed_dim=32, ch_mult=(1, 1, 2, 2, 4))
    decoder.load_state_dict(dit_eval.checkpoint(vae, key="state_dict"), strict=False)
    decoder = decoder.to(device).eval().requires_grad_(False)
    moments = dit_eval.checkpoint(stats)
    mean, std = (moments[key].to(device) for key in ("mean", "std"))

    def decode(z: torch.Tensor) -> torch.Tensor:
        return decoder.decode(z * std / multiplier + mean)

    return dit_eval.FlowModel(net, shape=(settings["in_channels"], 16, 16), decode=decode)
