"""The native kernels of the graph's own ops, RoIAlign, RoIPool and NMS, and the TensorRT plugins over them.

`mrcnn.plugins.kernels` calls them from Python; `CMakeLists.txt` and the folders of the ops are their source.
"""
