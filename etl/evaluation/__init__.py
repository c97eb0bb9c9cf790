"""Detections held against ground truth: matching, precision, intervals, and the files that show them."""
