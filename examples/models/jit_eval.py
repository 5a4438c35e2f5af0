"""JiT (Li & He 2025), https://github.com/LTH14/JiT: run in a checkout of it, on a GPU.

    dit-eval sample --model jit_eval:load --model-arg ckpt=checkpoint-last.pth --solver heun \
        --last-step euler --steps 50 --cfg 3.0 --cfg-times "(0.1, 1)" --labels sorted \
        --rounding round --out jit.npz

These are the settings of its README for JiT-B/16 at 256×256; for 512×512 add --model-arg image_size=512
--model-arg model=JiT-B/32 --model-arg noise_scale=2.
"""

from model_jit import JiT_models

import dit_eval


def load(ckpt, model="JiT-B/16", image_size=256, noise_scale=1.0, device="cuda"):
    net = JiT_models[model](input_size=image_size, in_channels=3, num_classes=1000)
    ema = dit_eval.checkpoint(ckpt, key="model_ema1")
    net.load_state_dict({key[4:]: value for key, value in ema.items() if key.startswith("net.")})
    return dit_eval.FlowModel(
        net.to(device).eval().requires_grad_(False),
        shape=(3, image_size, image_size),
        prediction="x",
        t_eps=0.05,
        noise_scale=noise_scale,
    )
