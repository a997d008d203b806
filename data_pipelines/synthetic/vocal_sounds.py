"""The score of each class of the embedded corpus: which gestures make a laugh, a cry, a cough.

    vowels  adult male targets of Peterson & Barney 1952
    laugh   notes of about 75 ms every 210 ms (Provine & Yong 1991), F0 about twice that of speech
            (Bachorowski, Smoski & Owren 2001)
    cough   explosive, intermediate and voiced phase (Korpas, Sadlonova & Vrabec 1996)
    scream  amplitude modulation at 30-150 Hz (Arnal et al. 2015)

All other numbers are set by hand against spectrograms of real recordings.
"""

from __future__ import annotations

from dataclasses import dataclass

SILENT = -80.0  # dB: a source that is off

# (F1, F2, F3) in Hz for a tract of 17.5 cm; higher resonances are those of a uniform tube.
VOWELS: dict[str, tuple[float, float, float]] = {
    "i": (270, 2290, 3010),
    "e": (530, 1840, 2480),
    "ae": (660, 1720, 2410),
    "a": (730, 1090, 2440),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
    "uh": (640, 1190, 2390),
    "schwa": (500, 1500, 2500),
    "m": (280, 1250, 2200),  # lips closed, sound through the nose
}


@dataclass(frozen=True)
class Gesture:
    """One articulatory movement; ranges are drawn uniformly, paths have equally spaced knots."""

    seconds: tuple[float, float]
    voice_db: float = SILENT
    breath_db: float = SILENT
    pitch_semitones: tuple[float, ...] = (0.0,)  # above the speaker's own F0
    vowels: tuple[str, ...] = ("schwa",)
    effort: float = 0.5  # 0 breathy and dull ... 1 pressed and bright
    roughness: float = 0.0  # 0 regular ... 1 every other pulse halved, modulated by 60 %
    attack_seconds: float = 0.03
    release_seconds: float = 0.06
    present_prob: float = 1.0


@dataclass(frozen=True)
class Sound:
    """The score of one class: `intro`, then `cycle` a drawn number of times, then `outro`."""

    cycle: tuple[Gesture, ...]
    repeats: tuple[int, int] = (1, 1)
    intro: tuple[Gesture, ...] = ()
    outro: tuple[Gesture, ...] = ()
    cycle_semitones: float = 0.0  # change of pitch from one cycle to the next
    cycle_db: float = 0.0  # change of level from one cycle to the next
    level_dbfs: float = -22.0  # typical RMS level of the recording's active part
    nasality: float = 0.0  # share of the sound that takes the nasal branch


def inhale(shortest: float, longest: float, breath_db: float, prob: float = 1.0) -> Gesture:
    seconds, vowels = (shortest, longest), ("schwa", "e")
    return Gesture(seconds, SILENT, breath_db, (0,), vowels, 0.5, 0, 0.08, 0.05, prob)


def pause(shortest: float, longest: float) -> Gesture:
    return Gesture((shortest, longest))


# Order of a gesture: seconds, voice dB, breath dB, semitones, vowels, effort, roughness, attack
# and release in seconds, probability.
# fmt: off
SOUNDS: dict[str, Sound] = {
    "laugh": Sound(
        cycle=(Gesture((0.06, 0.11), 0, -14, (10, 12, 9), ("uh",), 0.6, 0.1, 0.02, 0.03),
               Gesture((0.11, 0.18), SILENT, -20, vowels=("uh", "schwa"))),
        repeats=(3, 12), cycle_semitones=-0.5, cycle_db=-1.0,
        outro=(inhale(0.25, 0.6, -14, 0.4),)),
    "cry": Sound(
        cycle=(Gesture((0.5, 1.4), 0, -20, (6, 10, 11, 9, 4), ("e", "ae", "uh"), 0.75, 0.25,
                       0.06, 0.15),
               inhale(0.15, 0.35, -15)),
        repeats=(1, 3), cycle_db=-1.0, level_dbfs=-19, nasality=0.2),
    "cough": Sound(
        cycle=(Gesture((0.03, 0.06), SILENT, 6, (3,), ("uh",), 0.6, 0, 0.002, 0.02),
               Gesture((0.05, 0.18), -18, -7, (3, 2), ("uh", "schwa"), 0.5, 0.5, 0.01, 0.04),
               Gesture((0.05, 0.18), -3, -12, (3, -1), ("schwa",), 0.6, 0.4, 0.02, 0.06, 0.7),
               pause(0.12, 0.45)),
        repeats=(1, 4), cycle_db=-1.5, intro=(inhale(0.2, 0.4, -16, 0.3),)),
    "sigh": Sound(
        cycle=(Gesture((0.2, 0.7), -3, -10, (5, 2, -1), ("uh", "schwa"), 0.15, 0, 0.06, 0.2, 0.8),
               Gesture((0.4, 1.3), SILENT, -11, vowels=("schwa", "uh", "u"), attack_seconds=0.1,
                       release_seconds=0.4)),
        intro=(inhale(0.3, 0.9, -16, 0.6),), level_dbfs=-28),
    "scream": Sound(
        cycle=(Gesture((0.5, 2.2), 0, -14, (19, 24, 24, 21), ("ae", "a", "ae"), 1.0, 0.6,
                       0.05, 0.12),),
        intro=(inhale(0.15, 0.35, -22, 0.3),), level_dbfs=-14),
    "hum": Sound(
        cycle=(Gesture((0.5, 2.0), 0, -34, (0, 1, 1, 0), ("m",), 0.3, 0, 0.06, 0.12),
               pause(0.05, 0.3)),
        repeats=(1, 2), level_dbfs=-25, nasality=1.0),
    "moan": Sound(
        cycle=(Gesture((0.7, 1.9), 0, -20, (2, 5, 2, -3), ("schwa", "o", "u"), 0.35, 0.1,
                       0.12, 0.25),
               pause(0.05, 0.3)),
        repeats=(1, 2), level_dbfs=-23, nasality=0.4),
    "pant": Sound(
        cycle=(inhale(0.10, 0.22, -8),
               pause(0.02, 0.06),
               Gesture((0.12, 0.28), -24, -3, (2,), ("uh", "schwa"), 0.2, 0, 0.02, 0.08),
               pause(0.02, 0.08)),
        repeats=(3, 9), level_dbfs=-29),
    "grunt": Sound(
        cycle=(Gesture((0.12, 0.45), 0, -12, (2, 1, -3), ("uh", "o"), 0.55, 0.6, 0.01, 0.06),
               pause(0.15, 0.6)),
        repeats=(1, 3), level_dbfs=-22, nasality=0.2),
    "yawn": Sound(
        cycle=(Gesture((0.6, 1.5), -1, -12, (1, 6, 4, -3), ("a", "a", "o", "schwa"), 0.3, 0.1,
                       0.15, 0.3),),
        intro=(Gesture((0.4, 1.2), SILENT, -14, vowels=("schwa", "a", "a"), attack_seconds=0.3),),
        outro=(Gesture((0.2, 0.7), SILENT, -18, vowels=("schwa",), release_seconds=0.2),),
        level_dbfs=-25),
}
# fmt: on
