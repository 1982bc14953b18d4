"""Everything a reader sees, derived from records alone: summaries, tables, figures, one page."""
