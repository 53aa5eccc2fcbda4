"""Checkpoint → ONNX → TensorRT, each step validated. The entry is `mrcnn.export.to_onnx.export_onnx`."""
