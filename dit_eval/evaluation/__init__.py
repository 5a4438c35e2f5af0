"""From image batches to a result."""
