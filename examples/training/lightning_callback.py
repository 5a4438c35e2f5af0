"""Online evaluation as a Lightning callback, with any of Lightning's loggers.

    trainer = lightning.Trainer(callbacks=[OnlineEvaluation("imagenet-256", every=5000, num=10_000)])

The LightningModule has a method `eval_model()`, which returns a `dit_eval.FlowModel`, `DiffusionModel` or
`ImageModel` of the weights to be evaluated, for example of their moving average.
"""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

import dit_eval


class OnlineEvaluation(Callback):
    """Sample and evaluate every `every` steps; log `eval/fid`, `eval/fid_half_width` and so on.

    reference: as for `dit_eval.Evaluator`; settings: of `dit_eval.generate`, such as num, steps and cfg.
    """

    def __init__(self, reference: str, every: int, protocol: str | None = None, **settings: Any) -> None:
        self.reference, self.every, self.protocol, self.settings = reference, every, protocol, settings
        self.evaluator: dit_eval.Evaluator | None = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any
    ) -> None:
        """Called by Lightning on every rank."""
        step = trainer.global_step
        if step == 0 or step % self.every:
            return
        if self.evaluator is None:  # after Lightning has made the process group
            self.evaluator = dit_eval.Evaluator(
                self.reference, protocol=self.protocol, device=pl_module.device
            )
        dit_eval.generate(
            pl_module.eval_model(),  # type: ignore[operator]
            into=self.evaluator,
            device=str(pl_module.device),
            **self.settings,
        )
        scalars = self.evaluator.compute().scalars("eval/")
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Return the memory of the feature network."""
        if self.evaluator is not None:
            self.evaluator.close()
