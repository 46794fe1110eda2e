"""Outputs of single stages: their names, their file, and what tells how they are compared."""
