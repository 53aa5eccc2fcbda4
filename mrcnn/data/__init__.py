"""Detection data: COCO-format datasets and synthetic ones, behind one interface."""
