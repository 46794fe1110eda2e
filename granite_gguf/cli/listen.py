"""``granite-gguf listen``: what the microphone hears."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Annotated, Any

import typer

from granite_gguf.cli.console import print_note, print_result
from granite_gguf.cli.groups import command
from granite_gguf.cli.live import follow
from granite_gguf.cli.model_names import local_model
from granite_gguf.cli.options import Loading, ModelOrDemo
from granite_gguf.demo import DEMO_MODEL, DEMO_NOTE
from granite_gguf.errors import InputError, MissingExtraError
from granite_gguf.live import Live

_RATE = 16_000


@command
def listen(
    *,
    model: ModelOrDemo = None,
    microphone: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="The number of a microphone, or part of its name; by default the system's.",
            show_default=False,
        ),
    ] = None,
    microphones: Annotated[
        bool, typer.Option("--microphones", help="List the microphones, and end.")
    ] = False,
    loading: Loading,
) -> None:
    """Write down what the microphone hears, until Ctrl+C.

    What the encoder alone hears is shown at once, in the terminal's last line;
    at each pause the final text takes its place, as a line of standard output.
    Needs the extra `listen`.
    """
    sound = _sounddevice()
    if microphones:
        for number, found in enumerate(sound.query_devices()):
            if found["max_input_channels"]:
                print_result(f"{number}\t{found['name']}")
        return
    chosen = int(microphone) if microphone is not None and microphone.isdigit() else microphone
    try:
        sound.check_input_settings(chosen, channels=1, dtype="int16", samplerate=_RATE)
    except (sound.PortAudioError, ValueError) as error:
        raise InputError(
            f"the microphone cannot be used: {error}; --microphones lists those that there are"
        ) from error
    if model is None:
        print_note(DEMO_NOTE)
    file = DEMO_MODEL if model is None else local_model(model)
    with loading.load(file) as loaded:
        live = Live(loaded, _RATE, options={})

        def heard(data: Any, _frames: int, _time: Any, status: Any) -> None:
            if status:
                print_note(f"the microphone: {status}")
            live.write(bytes(data))

        with sound.RawInputStream(
            samplerate=_RATE, device=chosen, channels=1, dtype="int16", callback=heard
        ) as stream:
            usual = signal.getsignal(signal.SIGINT)

            def finish(_signal: int, _frame: FrameType | None) -> None:
                """What was heard is still written down; a second signal is not waited for."""
                signal.signal(signal.SIGINT, usual)
                stream.abort()
                live.end()

            signal.signal(signal.SIGINT, finish)
            follow(live)


def _sounddevice() -> Any:
    try:
        import sounddevice  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "listen needs sounddevice: pip install 'granite-gguf[listen]'"
        ) from error
    except OSError as error:  # of a system without its library
        raise MissingExtraError(
            f"listen needs PortAudio: {error}. On Debian and Ubuntu: apt install libportaudio2"
        ) from error
    return sounddevice
