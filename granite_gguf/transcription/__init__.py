"""Recordings in, transcripts out: cutting, retries, several at a time."""
