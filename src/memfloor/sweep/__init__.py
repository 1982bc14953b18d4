"""One plan of cells over a fleet of machines; each run is still a fresh process, and the driver's store the ledger."""
