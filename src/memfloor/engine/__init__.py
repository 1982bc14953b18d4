"""The decode engine and its kernels; so far the streaming kernels that find a device's ceiling."""
