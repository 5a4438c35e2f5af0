"""MAR (Li et al. 2024), https://github.com/LTH14/mar: run in a checkout of it, on a GPU.

    dit-eval sample --model mar_eval:load --model-arg ckpt=checkpoint-last.pth --model-arg vae=kl16.ckpt \
        --model-arg cfg=2.9 --labels sorted --rounding round --out mar.npz

These are the settings of its README for MAR-B; the model samples by itself, so guidance is its own argument.
"""

import torch
from models.vae import AutoencoderKL

import dit_eval
from models import mar


def load(ckpt, vae, model="mar_base", cfg=2.9, num_iter=256, sampling_steps=100, device="cuda", **network):
    settings = {"diffloss_d": 6, "diffloss_w": 1024, "num_sampling_steps": str(sampling_steps)} | network
    net = getattr(mar, model)(img_size=256, vae_stride=16, vae_embed_dim=16, class_num=1000, **settings)
    net.load_state_dict(dit_eval.checkpoint(ckpt, key="model_ema"))
    net = net.to(device).eval().requires_grad_(False)
    decoder = AutoencoderKL(embed_dim=16, ch_mult=(1, 1, 2, 2, 4))
    decoder.load_state_dict(dit_eval.checkpoint(vae, key="model"))
    decoder = decoder.to(device).eval().requires_grad_(False)

    def images(labels: torch.Tensor) -> torch.Tensor:
        tokens = net.sample_tokens(
            len(labels), num_iter, cfg=float(cfg), cfg_schedule="linear", labels=labels
        )
        return decoder.decode(tokens / 0.2325)

    return dit_eval.ImageModel(images, image_size=256)
