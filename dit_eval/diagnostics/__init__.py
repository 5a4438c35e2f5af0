"""Diagnosis of batches, certification, reproduction of published tables."""
