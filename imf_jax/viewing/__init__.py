"""Episodes as recordings of Rerun: the scene in 3-D, paths, chunks, curves and pictures on one timeline."""
