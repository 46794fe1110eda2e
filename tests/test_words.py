"""Words of a transcript: their texts, probabilities and times, on hand-made posteriors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from granite_gguf import Model, Word
from granite_gguf.words.times import Posteriors, split_words, time_words, token_probabilities


def test_words_are_split_at_white_space(models: dict[str, Model]) -> None:
    tokenizer = models["nle"].tokenizer
    for text in (" Ça va?  It's\n42 ", "one", "", "  "):
        tokens = tokenizer.encode(text)
        words = split_words(tokenizer, tokens)
        assert [word.text for word in words] == text.split()
        for word in words:
            assert tokenizer.decode(tokens[word.tokens]).split() == [word.text]


def test_a_run_of_rows_counts_by_its_surest(models: dict[str, Model]) -> None:
    e = replace(models["nle"].hparams.editor, eos_token_id=0, apply_logits_scaling=False)
    probabilities = np.array(
        [[0.9, 0.05, 0.05], [0.2, 0.6, 0.2], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.1, 0.7, 0.2]]
    )
    ids = probabilities.argmax(axis=1)
    found = token_probabilities(e, ids, np.log(probabilities).astype(np.float32))
    np.testing.assert_allclose(found, [0.8, 0.4, 0.7], rtol=1e-6)
    scaled = replace(e, apply_logits_scaling=True, logits_scaling=2.0)
    logits = (2 * np.log(probabilities)).astype(np.float32)
    np.testing.assert_allclose(token_probabilities(scaled, ids, logits), found, rtol=1e-6)


@pytest.mark.parametrize("layout", ["nle", "granite_speech_nar"])
def test_capitals_and_punctuation_are_the_editors(models: dict[str, Model], layout: str) -> None:
    """The encoder hears "so ask it now"; the editor writes more than that."""
    model = models[layout]
    h, tokenizer = model.hparams.hypothesis, model.tokenizer
    frames, windows = 200, 50
    logits = np.zeros((windows, h.bpe_vocab), np.float32)
    logits[:, h.blank_id] = 20
    mel = np.full((frames, 160), 1.4, np.float32)
    for at, text in ((5, "so"), (15, " ask"), (25, " it"), (35, " now")):
        for k, token in enumerate(tokenizer.encode(text)):
            logits[at + k, token + h.id_shift] = 40

    def head(first: int, last: int) -> np.ndarray:
        assert first % h.pooling_window == 0
        return logits[first // 4 : -(-last // 4)]

    tokens = tokenizer.encode("So, ASK really it now!")
    sure = np.linspace(0.5, 0.9, len(tokens)).astype(np.float32)
    words = time_words(h, tokenizer, tokens, sure, mel, np.ones(frames), head, 0.02)
    assert [word.text for word in words] == ["So,", "ASK", "really", "it", "now!"]
    assert [word.aligned for word in words] == [True, True, False, True, True]
    starts = {word.text: word.start for word in words}
    assert starts["So,"] == pytest.approx(0.4) and starts["ASK"] == pytest.approx(1.2)
    assert starts["it"] == pytest.approx(2.0) and starts["now!"] == pytest.approx(2.8)
    really = words[2]
    assert 1.2 < really.start <= 1.6 and really.end == pytest.approx(2.0)  # the whole gap
    first = split_words(tokenizer, tokens)[0]
    assert words[0].probability == pytest.approx(sure[first.tokens].min())
    assert isinstance(words[0], Word)


def test_posteriors_do_not_depend_on_the_slices(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    h = models["nle"].hparams.hypothesis
    logits = np.random.default_rng(0).standard_normal((33, h.bpe_vocab)).astype(np.float32)
    columns = np.array([3, 7, 50])
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    for windows in (64, 8):
        monkeypatch.setattr(Posteriors, "windows_at_once", windows)
        found = Posteriors(h, 130, columns, lambda a, b: logits[a // 4 : -(-b // 4)])
        np.testing.assert_allclose(found.tokens, expected[:, columns], atol=1e-5)
        np.testing.assert_allclose(found.blank, expected[:, h.blank_id], atol=1e-5)
