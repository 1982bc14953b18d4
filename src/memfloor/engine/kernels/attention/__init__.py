"""Split-KV attention of one token to the past, and the join of the splits with the token, which is appended."""
