"""`python -m dit_eval`, the form that torchrun starts."""

from dit_eval.cli import run

run()
