"""The stages that the family's models share, callable on numpy arrays."""
