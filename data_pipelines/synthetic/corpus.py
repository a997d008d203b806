"""Embedded corpus: a deterministic source-filter synthesiser of non-verbal vocal sounds.

No audio is committed to the repository; the demo and the tests make theirs here. A sound is a
score of *gestures* (burst, wail, inhalation, pause, ...). Each gesture sets a pitch contour, a path
through vowel targets and the levels of two sources, voice and breath, which then pass through the
formants of one speaker's vocal tract, a microphone and a room (`vocal_tract.py`). The scores stand
in `vocal_sounds.py`. The corpus exercises code; a result on it says nothing about human voices.

The default corpus has 10 classes x 8 speakers x 5 takes = 400 clips of 0.5 to 5.9 s, 13.7 minutes.
Mean and standard deviation of 13 (20) MFCCs, standardised, with logistic regression, reach a class
UAR of .77 (.73) on held-out speakers (chance .10) and a speaker accuracy of .41 (.54) on held-out
clips (chance .125): `python -m pytest tests/test_synthetic.py -k mfcc -s`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.synthetic.vocal_sounds import SILENT, SOUNDS, VOWELS, Sound, pause
from data_pipelines.synthetic.vocal_tract import (
    ADULT_TRACT_CM,
    CONTROL_SECONDS,
    VOWEL_FORMANTS,
    Score,
    Speaker,
    amplitude,
    glide,
    record,
    smooth,
    sources,
    tract,
)
from voc2vec_jax.audio.signal import SAMPLE_RATE

CLASSES: tuple[str, ...] = tuple(SOUNDS)


@dataclass(frozen=True)
class SyntheticClip:
    """One clip of the corpus.

    Attributes:
        id: `<class>-s<speaker>-t<take>`, such as `laugh-s03-t02`.
        label: index in `CLASSES`.
        group: speaker, such as `s03`; folds must not split it.
        waveform: float32 [S] at 16 kHz, |x| <= 1, on the 16-bit grid.
    """

    id: str
    label: int
    group: str
    waveform: NDArray[np.float32]


def _draw_speaker(speaker: int, seed: int) -> Speaker:
    """Draw the lasting traits of a speaker."""
    # The first number tells the streams apart. Keys have one length because SeedSequence pads
    # short ones with zeros: [0] and [0, 0] are the same stream.
    rng = np.random.default_rng(np.random.SeedSequence([0, speaker, 0, 0, seed]))
    # Steps of the golden ratio spread any number of speakers evenly between large and small.
    offset = np.random.default_rng(np.random.SeedSequence([1, 0, 0, 0, seed])).random()
    size = (offset + 0.618034 * speaker) % 1.0
    return Speaker(
        pitch_hz=95.0 * (255.0 / 95.0) ** size * np.exp(rng.normal(0, 0.08)),
        tract_cm=18.0 - 5.0 * size + rng.normal(0, 0.4),
        formant_shift=np.exp(rng.normal(0, 0.04, VOWEL_FORMANTS)),
        effort=rng.normal(0, 0.08),
        breath_db=rng.normal(0, 3),
        jitter=rng.uniform(0.004, 0.015),
        shimmer=rng.uniform(0.03, 0.12),
        tempo=np.exp(rng.normal(0, 0.12)),
        nasality=0.0,
        mic_db_per_octave=rng.uniform(-3, 1),
        noise_dbfs=rng.uniform(-72, -52),
        room_seconds=rng.uniform(0.15, 0.5),
        room_db=rng.uniform(-24, -12),
    )


def _on_the_day(speaker: Speaker, rng: np.random.Generator) -> Speaker:
    """Vary a speaker's traits for one take: mood, vowel colour, distance from the microphone."""
    return replace(
        speaker,
        pitch_hz=speaker.pitch_hz * 2 ** (rng.normal(0, 3) / 12),
        formant_shift=speaker.formant_shift * np.exp(rng.normal(0, 0.12, VOWEL_FORMANTS)),
        effort=speaker.effort + rng.normal(0, 0.18),
        breath_db=speaker.breath_db + rng.normal(0, 5),
        tempo=speaker.tempo * np.exp(rng.normal(0, 0.15)),
        nasality=rng.normal(0, 0.2),
        mic_db_per_octave=speaker.mic_db_per_octave + rng.normal(0, 1.5),
        noise_dbfs=speaker.noise_dbfs + rng.normal(0, 5),
        room_db=speaker.room_db + rng.normal(0, 3),
    )


def _perform(sound: Sound, speaker: Speaker, rng: np.random.Generator) -> Score:
    """Draw one take: choose the gestures, their lengths and levels, and join their tracks."""
    cycles = int(rng.integers(sound.repeats[0], sound.repeats[1] + 1))
    gestures = [(0, g) for g in (pause(0.04, 0.42), *sound.intro)]
    gestures += [(cycle, g) for cycle in range(cycles) for g in sound.cycle]
    gestures += [(cycles, g) for g in (*sound.outro, pause(0.04, 0.42))]
    total = sum(round(g.seconds[1] / speaker.tempo / CONTROL_SECONDS) + 4 for _, g in gestures)
    tracks = np.zeros((total, 5 + VOWEL_FORMANTS))
    formant_scale = speaker.formant_shift * ADULT_TRACT_CM / speaker.tract_cm
    end, settled, release_seconds = 0, 0, 0.0
    for cycle, gesture in gestures:
        if rng.random() >= gesture.present_prob:
            continue
        length = max(4, round(rng.uniform(*gesture.seconds) / speaker.tempo / CONTROL_SECONDS))
        # One gesture fades in while the one before it fades out.
        overlap = round(min(release_seconds, gesture.attack_seconds) / CONTROL_SECONDS)
        start = end - min(overlap, length // 2, end)
        end, release_seconds = start + length, gesture.release_seconds
        if max(gesture.voice_db, gesture.breath_db) == SILENT:
            continue
        time = (np.arange(length) + 0.5) * CONTROL_SECONDS
        envelope = np.minimum(time / gesture.attack_seconds, 1)
        envelope *= np.minimum(time[::-1] / gesture.release_seconds, 1)
        level_db = rng.normal(0, 1.5) + cycle * sound.cycle_db
        breath_db = level_db + gesture.breath_db + speaker.breath_db
        tracks[start:end, 0] += amplitude(level_db + gesture.voice_db) * envelope
        tracks[start:end, 1] += amplitude(breath_db) * envelope
        semitones = glide(np.array([gesture.pitch_semitones]).T, length)
        semitones += rng.normal(0, 0.7) + cycle * sound.cycle_semitones
        effort = np.clip(gesture.effort + speaker.effort, 0, 1)
        roughness = gesture.roughness * rng.uniform(0.4, 1.2)
        formants_hz = glide(np.array([VOWELS[v] for v in gesture.vowels]) * formant_scale, length)
        tension = np.broadcast_to([effort, roughness], (length, 2))
        posture = np.hstack([speaker.pitch_hz * 2 ** (semitones / 12), tension, formants_hz])
        # Taken up during the pause before, as a mouth opens before it sounds.
        tracks[settled:end, 2:] = posture[np.maximum(np.arange(settled, end) - start, 0)]
        settled = end
    tracks[settled:end, 2:] = tracks[settled - 1, 2:]
    voice, breath = tracks[:end, :2].T
    slow = smooth(tracks[:end, 2:], 0.04)
    return Score(voice, breath, slow[:, 0], slow[:, 1], slow[:, 2], slow[:, 3:])


def synthesize(label: int, speaker: int, take: int, seed: int = 0) -> NDArray[np.float32]:
    """Synthesise one clip, a pure function of its four arguments.

    Args:
        label: index in `CLASSES`.
        speaker: any non-negative integer; fixes pitch, vocal tract, breathiness and the room.
        take: any non-negative integer; another take of the same sound by the same speaker.
        seed: any non-negative integer; another seed is another set of speakers.

    Returns:
        float32 [S] at 16 kHz, |x| <= 1. Values are multiples of 2**-15: a 16-bit file keeps them.

    Raises:
        ValueError: `label` is not a class, or another argument is negative.
    """
    if not 0 <= label < len(CLASSES):
        raise ValueError(f"label={label}: choose 0 to {len(CLASSES) - 1}, an index in CLASSES")
    if min(speaker, take, seed) < 0:
        raise ValueError(f"{speaker=}, {take=}, {seed=}: give non-negative integers")
    sound = SOUNDS[CLASSES[label]]
    rng = np.random.default_rng(np.random.SeedSequence([2, speaker, label, take, seed]))
    traits = _on_the_day(_draw_speaker(speaker, seed), rng)
    score = _perform(sound, traits, rng)
    voice, breath = sources(score, traits, rng)
    dry = tract(voice, breath, score, sound.nasality, traits)
    return record(dry, sound.level_dbfs + rng.normal(0, 4), traits, rng)


def synthetic_corpus(
    *, speakers: int = 8, takes: int = 5, seed: int = 0
) -> Iterator[SyntheticClip]:
    """Yield `len(CLASSES) * speakers * takes` clips, ordered by class, speaker and take.

    A clip does not depend on how many others are made.

    Raises:
        ValueError: at the first clip, if there would be none or if `seed` is negative.
    """
    if min(speakers, takes) < 1:
        raise ValueError(f"{speakers=}, {takes=}: the corpus needs at least one of each")
    for label, name in enumerate(CLASSES):
        for speaker in range(speakers):
            for take in range(takes):
                group = f"s{speaker:02d}"
                waveform = synthesize(label, speaker, take, seed)
                yield SyntheticClip(f"{name}-{group}-t{take:02d}", label, group, waveform)


def write_wavs(folder: str | Path, *, speakers: int = 8, takes: int = 5, seed: int = 0) -> int:
    """Write the corpus as 16 kHz 16-bit `<folder>/<class>/<id>.wav`, listed in `clips.csv`.

    The columns of `clips.csv` are path (relative to the folder), label (class name) and group
    (speaker). Existing files are overwritten. Returns the number of clips written; raises as
    `synthetic_corpus` does.
    """
    import soundfile  # only writing files needs it

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["path", "label", "group"])
        for clip in synthetic_corpus(speakers=speakers, takes=takes, seed=seed):
            path = Path(CLASSES[clip.label], f"{clip.id}.wav")
            (folder / path.parent).mkdir(exist_ok=True)
            integers = (clip.waveform * 32768).astype(np.int16)  # exact: already on this grid
            soundfile.write(folder / path, integers, SAMPLE_RATE, subtype="PCM_16")
            writer.writerow([path.as_posix(), CLASSES[clip.label], clip.group])
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=f"Write the synthetic corpus ({', '.join(CLASSES)}) as wav files to listen to.",
        epilog="example: python -m data_pipelines.synthetic /tmp/vocal --speakers 2 --takes 1",
    )
    parser.add_argument("folder", type=Path, help="where to write <class>/<id>.wav and clips.csv")
    parser.add_argument("--speakers", type=int, default=8, help="speakers per class (%(default)s)")
    parser.add_argument("--takes", type=int, default=5, help="takes per speaker (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another set of speakers")
    args = parser.parse_args()
    count = write_wavs(args.folder, speakers=args.speakers, takes=args.takes, seed=args.seed)
    print(f"clips={count} folder={args.folder}")
