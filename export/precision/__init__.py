"""Precision written into the graph: FP16, INT8, and which layers need more."""
