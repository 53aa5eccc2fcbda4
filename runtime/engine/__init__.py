"""Runs TensorRT plans. Nothing here is imported before a `.engine` file is opened."""
