"""The diffusion transformer: configurations, blocks, model and checkpoints."""

from dit_eval.dit.blocks import BLOCKS
from dit_eval.dit.checkpoints import load_dit
from dit_eval.dit.configs import DIT, DiTConfig, model_name
from dit_eval.dit.model import Conditioning, DiT, build_dit

__all__ = ["BLOCKS", "DIT", "Conditioning", "DiT", "DiTConfig", "build_dit", "load_dit", "model_name"]
