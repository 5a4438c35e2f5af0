"""Reading and writing files: image batches, npz archives and downloaded assets."""
