"""The DiT: configurations, blocks, model and checkpoints."""
