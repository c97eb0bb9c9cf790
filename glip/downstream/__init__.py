"""What grounding is for: medical VQA and report generation with and without found regions, as a controlled experiment.

Torch only in vision.py, vqa_model.py, r2gen.py, training.py and features.py. See docs/downstream.md.
"""
