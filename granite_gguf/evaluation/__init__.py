"""Word and character error rates of models over sets of recordings.

    manifest | folder → Item per recording → transcribe → Result → score → Row
    results (JSON lines, resumable, of any system) → Result → score → Row
    Rows → Evaluation of a model on a set → report → tables | page | JSON

``scoring`` counts, by a rule; ``leaderboard`` has what the Open ASR Leaderboard does besides, and
``bootstrap`` tells how sure a rate is.
"""
