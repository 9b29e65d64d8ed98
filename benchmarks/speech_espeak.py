"""Speech that espeak-ng speaks, with its phonemes and where each begins.

Its library (`libespeak-ng.so.1`, Debian's `espeak-ng`) tells both in events, through `ctypes`.
"""

import ctypes
from typing import NamedTuple

import numpy as np

RATE = 22050  # of espeak's sound
SYNCHRONOUS, PHONEME_EVENTS, UTF8 = 2, 1, 1
END_OF_LIST, PHONEME = 0, 7  # types of events


class Name(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("pointer", ctypes.c_char_p), ("text", ctypes.c_char * 8)]


class Event(ctypes.Structure):
    """`espeak_EVENT` of espeak-ng/speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", Name),
    ]


class Spoken(NamedTuple):
    """A sentence: its sound, its phonemes, and the sample at which each begins."""

    sound: np.ndarray
    phonemes: list[str]
    begins: list[int]


def speak(sentences: list[str], voice: str = "en-us") -> list[Spoken]:
    """Speaks each sentence by itself.

    Raises:
        OSError: espeak-ng is not installed.
    """
    library = ctypes.CDLL("libespeak-ng.so.1")
    if library.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS) != RATE:
        raise OSError("espeak-ng did not start")
    if library.espeak_SetVoiceByName(voice.encode()):
        raise OSError(f"espeak-ng has no voice {voice!r}")
    pieces, events = [], []

    def hear(samples, count, heard):
        if count:
            pieces.append(np.ctypeslib.as_array(samples, (count,)) / np.float32(2**15))
        place = 0
        while heard[place].type != END_OF_LIST:
            if heard[place].type == PHONEME:
                events.append((heard[place].name.text.decode(), heard[place].sample))
            place += 1
        return 0

    arguments = ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event)
    callback = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(hear)
    library.espeak_SetSynthCallback(callback)
    spoken = []
    for sentence in sentences:
        pieces.clear(), events.clear()
        text = sentence.encode()
        library.espeak_Synth(text, len(text) + 1, 0, 1, 0, UTF8, None, None)
        phonemes, begins = zip(*events, strict=True)
        spoken.append(Spoken(np.concatenate(pieces), list(phonemes), list(begins)))
    return spoken
