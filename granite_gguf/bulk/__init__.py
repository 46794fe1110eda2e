"""Very many recordings on one machine or many: a list, actors of Ray, a folder of results."""
