"""The dialects of published files: one reader for each, and what a reader answers."""
