"""`make demo`: the checkpoint in this folder becomes a proven, measured model and a picture of its finds."""
