"""Figures, the HTML report and text for terminals."""
