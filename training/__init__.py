"""Trains the demonstration model: a miniature `granite_nle` that knows a small closed vocabulary.

    grammar ──▶ synthesize (espeak-ng, many voices) ──▶ features + held-out recordings
                     │
    tokens ──────────┤
                     ▼
    train encoder (character and BPE CTC) ──▶ train projector and editor ──▶ export ──▶ evaluate

Everything is seeded. See README.md for the commands.
"""
