"""The search for the best sampling settings: settings → races on shared noise → a winner on fresh images."""
