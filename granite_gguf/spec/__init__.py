"""What a model of the family is: numbers, tensors, and what cannot be."""
