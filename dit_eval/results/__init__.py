"""Results as data: the result itself, checks, comparability and published rows."""
