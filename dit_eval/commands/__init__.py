"""The commands, one module each; `cli` attaches them."""
