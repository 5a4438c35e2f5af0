"""From images to features: protocols, resizes, networks and the extraction loop."""
