"""From a file into memory that multiplies: which kernel, which buffer, which numbers are sound."""
