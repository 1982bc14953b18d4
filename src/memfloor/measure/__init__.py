"""Time a callable against the bandwidth of the machine it runs on; nothing here knows of models."""
