"""Multiply-adds and parameters of the models."""
