"""Files that other publishers write."""
