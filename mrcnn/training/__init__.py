"""Training: `mrcnn.training.loop.train` and the parts that it is made of."""
