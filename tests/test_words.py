"""Words of a transcript: their texts, probabilities and times, on hand-made posteriors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from granite_gguf import Model, Word
from granite_gguf.nar import decoding as nar_decoding
from granite_gguf.nar.decoding import best_probabilities
from granite_gguf.stages import decoding
from granite_gguf.stages.decoding import log_totals, run_probabilities
from granite_gguf.stages.shared import BPE_TOTALS
from granite_gguf.words.times import Heard, split_words, time_words
from tests.signals import synthetic_audio


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
    best = best_probabilities(e, np.log(probabilities).astype(np.float32))
    np.testing.assert_allclose(best, [0.9, 0.6, 0.8, 0.4, 0.7], rtol=1e-6)
    found = run_probabilities(ids, best, e.eos_token_id)
    np.testing.assert_allclose(found, [0.8, 0.4, 0.7], rtol=1e-6)
    scaled = replace(e, apply_logits_scaling=True, logits_scaling=2.0)
    logits = (2 * np.log(probabilities)).astype(np.float32)
    np.testing.assert_allclose(best_probabilities(scaled, logits), best, rtol=1e-6)


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

    said = logits - log_totals(logits)[:, None]
    tokens = tokenizer.encode("So, ASK really it now!")
    sure = np.linspace(0.5, 0.9, len(tokens)).astype(np.float32)
    blank = np.ones(frames, np.float32)
    heard = Heard(mel, blank, h.pooling_window, h.blank_id, lambda ids: said[:, ids], 0.02)
    words = time_words(h, tokenizer, tokens, sure, heard)
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


@pytest.mark.parametrize("rows_at_once", [64, 8])
def test_sums_of_a_softmax_do_not_depend_on_the_slices(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    for module in (decoding, nar_decoding):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", rows_at_once)
    logits = 9 * np.random.default_rng(0).standard_normal((33, 700)).astype(np.float32)
    odds = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(log_totals(logits), np.log(odds.sum(axis=1)), rtol=1e-6)
    e = replace(models["nle"].hparams.editor, apply_logits_scaling=False)
    best = odds.max(axis=1) / odds.sum(axis=1)
    np.testing.assert_allclose(best_probabilities(e, logits), best, rtol=1e-5)


@pytest.mark.parametrize("layout", ["nle", "granite_speech_nar"])
def test_posteriors_are_the_softmax_of_the_head(models: dict[str, Model], layout: str) -> None:
    """Of some ids, without the logits: they come from the pooled states once more."""
    model = models[layout]
    encoded = model.run_encoder(model.compute_mel(synthetic_audio(33 * 1280, seed=3)))
    taps = frozenset({"pooled", "bpe_logits", BPE_TOTALS})
    head = model.run_hypothesis_head(encoded.final, encoded.blank, taps)
    odds = np.exp(head.taps["bpe_logits"].astype(np.float64))
    expected = np.log(odds / odds.sum(axis=1, keepdims=True))
    ids = np.array([model.hparams.hypothesis.blank_id, 7, 50, 3, 7])
    found = model.bpe_posteriors(head.taps["pooled"], head.taps[BPE_TOTALS], ids)
    assert found.shape == (33, 5)
    np.testing.assert_allclose(found, expected[:, ids], atol=1e-4)
