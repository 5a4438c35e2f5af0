"""The numbers. Arrays in, numbers out: no metric sees a path, an image or a network."""
