"""`make gpu-check`: are the CUDA kernels right on this machine's GPU, and how fast are they?

command                     arguments, steps in order, the result, the table
steps                       what steps are given and give back; which tasks each has
isolate, deadline, shell    tasks in a process of their own, as a kernel may take it along; limits
device                      the GPU through torch: guarded memory, graphs, events
build, programs             the kernels; compute-sanitizer (sanitize.cpp), the host of the TensorRT plugins
roi_align_cases, …          what is checked, seeded: RoIAlign, NMS, the resize (RoIPool's beside its check)
check_…, compare            the checks, and what counts as equal
workloads                   what is timed, seeded
timing, time_…              how times are taken, and of what
tables, publish             a result as a table; docs/kernels.md and its plot
"""
