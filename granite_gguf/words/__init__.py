"""When each word is said, and how probable it is."""
