"""A projection onto the residual stream (O and down), and the next norm's inputs."""
