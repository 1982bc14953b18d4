"""Write the residual stream of one token and the next norm's inputs."""
