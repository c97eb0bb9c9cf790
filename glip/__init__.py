"""GLIP in plain PyTorch: one image encoder per modality, one shared language encoder.

This module imports nothing heavy; `glip.ground.Grounder` is the Python API for boxes from a picture and a prompt.
"""
