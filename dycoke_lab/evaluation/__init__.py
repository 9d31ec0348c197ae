"""Accuracy: grids of real `generate` runs on the specimens, tables with intervals, one prompt, lmms-eval."""
