"""Multiply-adds and parameters of a model."""
