"""Final RMS norm, then logits and the best logit of every program."""
