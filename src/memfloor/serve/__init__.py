"""A read-only web view over a folder of records: the numbers are those of `report`, the pages need no script."""
