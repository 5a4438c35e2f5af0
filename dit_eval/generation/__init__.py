"""From a model to a batch of images."""
