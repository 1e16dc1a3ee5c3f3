import io
import wave

import pytest

from clipjax.config.errors import UserError
from clipjax.data.spoken import _VARIANTS, find_speaker, speak, voice_of


def test_voices_follow_from_seed_and_key_and_are_spread():
    assert voice_of(0, "1F431:0") == voice_of(0, "1F431:0")
    voices = [voice_of(0, f"x:{view}") for view in range(300)]
    assert {one["voice"] for one in voices} == {f"en-us+{name}" for name in _VARIANTS}
    for name, low, high in (("pitch", 30, 70), ("speed", 130, 190)):
        values = [one[name] for one in voices]
        assert low <= min(values) < low + 5
        assert high - 5 < max(values) <= high
    assert voices != [voice_of(1, f"x:{view}") for view in range(300)]


def test_a_speaker_that_fails_is_named(tmp_path):
    program = tmp_path / "espeak-ng"
    program.write_text("#!/bin/sh\necho 'no such voice' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(UserError, match=r"could not speak 'cat' as .* \(no such voice\)"):
        speak(str(program), "cat", voice_of(0, "k"))
    with pytest.raises(UserError, match="leave speech out of --facets"):
        speak(str(tmp_path / "absent"), "cat", voice_of(0, "k"))


def test_the_same_words_sound_the_same():
    program = find_speaker()
    if program is None:
        pytest.skip("no espeak-ng: apt-get install espeak-ng")
    spoken = [speak(program, text, voice_of(0, "k")) for text in ("-cat face", "-cat face", "dog")]
    assert spoken[0] == spoken[1] != spoken[2]
    with wave.open(io.BytesIO(spoken[0])) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        assert 0.3 < file.getnframes() / 22050 < 5
