"""The join of attention's splits and the O projection onto the residual stream, in one launch."""
