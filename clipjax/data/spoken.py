"""Speaks words with espeak-ng, in a voice, a pitch and a speed that follow from a key."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from clipjax.config.errors import UserError
from clipjax.data.keyed import uniforms
from clipjax.data.word_pictures import number_of

PROGRAM = "espeak-ng"
INSTALL = "apt-get install espeak-ng"

_LANGUAGE = "en-us"
_VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")
_PITCHES = (30, 70)  # of 0 to 99
_SPEEDS = (130, 190)  # words a minute
_VOICES = 33  # stream of random numbers
_SECONDS = 60


def find_speaker() -> str | None:
    """Returns the path of espeak-ng if it is installed."""
    return shutil.which(PROGRAM)


def voice_of(seed: int, key: str) -> dict[str, str | int]:
    """Returns the voice, pitch and speed that a key has.

    >>> sorted(voice_of(0, "1F431:0"))
    ['pitch', 'speed', 'voice']
    """
    draws = uniforms(seed, number_of(key), _VOICES, 3)
    return {
        "voice": f"{_LANGUAGE}+{_VARIANTS[int(draws[0] * len(_VARIANTS))]}",
        "pitch": _between(_PITCHES, float(draws[1])),
        "speed": _between(_SPEEDS, float(draws[2])),
    }


def speak(program: str, text: str, voice: dict[str, str | int]) -> bytes:
    """Returns a .wav file: one channel of 16 bits, 22,050 samples a second.

    Raises:
        UserError: if the program fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spoken.wav"
        flags = ["-v", str(voice["voice"]), "-p", str(voice["pitch"]), "-s", str(voice["speed"])]
        try:
            # From standard input: a text may begin with a hyphen.
            done = subprocess.run(
                [program, *flags, "-b", "1", "-w", str(path), "--stdin"],
                input=text.encode(),
                capture_output=True,
                timeout=_SECONDS,
            )
            said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
            if done.returncode == 0:
                return path.read_bytes()
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
    raise UserError(
        f"{program}: could not speak {text!r} as {voice['voice']} ({said or 'no message'}). "
        f"{INSTALL}, or leave speech out of --facets."
    )


def _between(limits: tuple[int, int], draw: float) -> int:
    return limits[0] + int(draw * (limits[1] - limits[0] + 1))
