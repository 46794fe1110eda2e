"""Word and character error rates of a model over a set of recordings.

manifest | folder → Item per recording → transcribe → results (JSON lines, resumable) → scores
"""
