"""Read a large buffer once and keep nothing: the fastest a decode step's weights could arrive."""
