"""One module per command of `dit-eval`: parse, call, print."""
