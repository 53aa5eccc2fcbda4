"""Ranges for tests that quantise without pictures."""

from mrcnn.export.precision.layers import GraphView


def everything_seen(seen: GraphView) -> dict[str, tuple[float, float]]:
    """Ranges of every value, as if each lay in -1…4, and what activations make in 0…4."""
    made = {name for name, node in seen.makers.items() if node.op_type in ("Relu", "Clip")}
    return {name: (0.0 if name in made else -1.0, 4.0) for name in seen.dense}
