"""Checks of inputs and of the installation: doctor, certify, reproduce."""
