"""A mixture of two normal distributions in the plane, and what a perfect network would say about it."""

from __future__ import annotations

import torch
from torch import Tensor

from dit_eval.sampling.guidance import Denoiser, Time
from dit_eval.sampling.paths import PATHS, convert

WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([[-0.9, 0.4], [0.6, -0.2]], dtype=torch.float64)
COVARIANCES = torch.tensor(
    [[[0.20, 0.05], [0.05, 0.10]], [[0.15, -0.04], [-0.04, 0.30]]], dtype=torch.float64
)

MEAN = WEIGHTS @ MEANS
COVARIANCE = torch.einsum("k,kij->ij", WEIGHTS, COVARIANCES + MEANS[:, :, None] * MEANS[:, None, :]) - (
    MEAN[:, None] * MEAN[None, :]
)


def perfect(path: str, prediction: str = "velocity") -> Denoiser:
    """The network of a mixture whose points are the two channels of a pixel: x (N, 2, H, W) float64."""

    def denoiser(x: Tensor, t: Time) -> Tensor:
        if isinstance(t, Tensor):  # every image by itself
            return torch.cat([denoiser(image[None], float(time)) for image, time in zip(x, t, strict=True)])
        at = PATHS[path](t)
        spread = at.alpha**2 * COVARIANCES + at.sigma**2 * torch.eye(2, dtype=torch.float64)  # (K, 2, 2)
        points = x.movedim(1, -1)[..., None, :] - at.alpha * MEANS  # (N, H, W, K, 2)
        whitened = torch.einsum("kij,...kj->...ki", spread.inverse(), points)
        log_density = -0.5 * (points * whitened).sum(-1) - 0.5 * spread.logdet()
        share = (WEIGHTS.log() + log_density).softmax(-1)[..., None]
        noise = (share * at.sigma * whitened).sum(-2)  # E[ε | x]
        data = (share * (MEANS + at.alpha * torch.einsum("kij,...kj->...ki", COVARIANCES, whitened))).sum(-2)
        if prediction == "velocity":  # not from the noise, of which nothing can be seen at t = 1
            return (at.d_alpha * data + at.d_sigma * noise).movedim(-1, 1)
        return convert(noise.movedim(-1, 1), x, at, given="noise", wanted=prediction)

    return denoiser
