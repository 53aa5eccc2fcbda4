"""`make gpu-check`; also `python benchmarks/gpu_check` in a checkout, where nothing is installed."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a folder, Python looks for modules in it; the packages are found from the checkout instead.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from mrcnn.benchmarks.gpu_check.command import main

if __name__ == "__main__":
    sys.exit(main())
