"""Take the greedy token and start the next step with its embedding."""
