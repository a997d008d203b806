"""The labels of AudioSet's ontology that stand for human non-verbal vocalisation, and for what is
often mixed with it; compared with audioset/ontology, ontology.json (d417d32)."""

CORE = {
    "/m/07p6fty": "Shout",
    "/m/07q4ntr": "Bellow",
    "/m/07rwj3x": "Whoop",
    "/m/07sr1lc": "Yell",
    "/m/04gy_2": "Battle cry",
    "/t/dd00135": "Children shouting",
    "/m/03qc9zr": "Screaming",
    "/m/01j3sz": "Laughter",
    "/t/dd00001": "Baby laughter",
    "/m/07r660_": "Giggle",
    "/m/07s04w4": "Snicker",
    "/m/07sq110": "Belly laugh",
    "/m/07rgt08": "Chuckle, chortle",
    "/m/0463cq4": "Crying, sobbing",
    "/t/dd00002": "Baby cry, infant cry",
    "/m/07qz6j3": "Whimper",
    "/m/07qw_06": "Wail, moan",
    "/m/07plz5l": "Sigh",
    "/m/02fxyj": "Humming",
    "/m/07s2xch": "Groan",
    "/m/07r4k75": "Grunt",
    "/m/01j423": "Yawn",
    "/m/0261r1": "Babbling",
    "/m/0lyf6": "Breathing",
    "/m/07mzm6": "Wheeze",
    "/m/01d3sd": "Snoring",
    "/m/07s0dtb": "Gasp",
    "/m/07pyy8b": "Pant",
    "/m/07q0yl5": "Snort",
    "/m/01b_21": "Cough",
    "/m/0dl9sf8": "Throat clearing",
    "/m/01hsr_": "Sneeze",
    "/m/07ppn3j": "Sniff",
    "/m/03q5_w": "Burping, eructation",
    "/m/02p3nc": "Hiccup",
}
"""By identifier. Yawn is in the ontology, but not among the 527 labels that were released."""

BORDERLINE = {
    "/m/02rtxlg": "Whispering",
    "/m/01w250": "Whistling",
    "/m/079vc8": "Wolf-whistling",
    "/m/0939n_": "Gargling",
    "/m/03cczk": "Chewing, mastication",
    "/m/07pdhp0": "Biting",
    "/m/053hz1": "Cheering",
    "/m/04v5dt": "Booing",
    "/m/015lz1": "Singing",
    "/m/0l14jd": "Choir",
    "/m/01swy6": "Yodeling",
    "/m/02bk07": "Chant",
    "/m/01c194": "Mantra",
    "/t/dd00003": "Male singing",
    "/t/dd00004": "Female singing",
    "/t/dd00005": "Child singing",
    "/t/dd00006": "Synthetic singing",
    "/m/06bxc": "Rapping",
}
"""Between voice and breath on one side, speech, music and crowds on the other."""

SPEECH = {
    "/m/09x0r": "Speech",
    "/m/05zppz": "Male speech, man speaking",
    "/m/02zsn": "Female speech, woman speaking",
    "/m/0ytgt": "Child speech, kid speaking",
    "/m/01h8n0": "Conversation",
    "/m/02qldy": "Narration, monologue",
    "/m/0261r1": "Babbling",
    "/m/0brhx": "Speech synthesizer",
}
"""Speech and all that is below it. Some segments have the narrower label only: of the 695 of
balanced train with a label of CORE and neither `Speech` nor `Music`, 15 are child speech. By all
of SPEECH_SINGING_AND_MUSIC 28 are out (24 by speech and the label `Singing` itself)."""

SINGING = {
    mid: name
    for mid, name in BORDERLINE.items()
    if "sing" in name.lower() or name in ("Choir", "Yodeling", "Chant", "Mantra", "Rapping")
}
"""Singing and all that is below it. Humming is beside it, not below."""

_MUSIC = (
    "/m/011k_j /m/013y1f /m/0140xf /m/0145m /m/0150b9 /m/0155w /m/015vgc /m/015y_n "
    "/m/0164x2 /m/016622 /m/016cjb /m/018j2 /m/018vs /m/0192l /m/01bns_ /m/01glhc "
    "/m/01hgjl /m/01kcd /m/01lyv /m/01p970 /m/01qbl /m/01s0ps /m/01sm1g /m/01v1d8 /m/01wy6 "
    "/m/01xqw /m/01z7dr /m/0239kh /m/025td0t /m/026fgl /m/026t6 /m/026z9 /m/027m70_ "
    "/m/0283d /m/028sqc /m/02bxd /m/02cjck /m/02cz_7 /m/02fsn /m/02hnl /m/02k_mr /m/02lkt "
    "/m/02mscn /m/02p0sh1 /m/02qmj0d /m/02sgy /m/02v2lh /m/02w4v /m/02x8m /m/0319l "
    "/m/0326g /m/0342h /m/0395lw /m/03_d0 /m/03gvt /m/03lty /m/03m5k /m/03mb9 /m/03q5t "
    "/m/03qjg /m/03qtq /m/03r5q_ /m/03t3fj /m/03w41f /m/03xq_f /m/042v_gx /m/04rlf "
    "/m/04rzd /m/04szw /m/04wptg /m/05148p4 /m/05fw6t /m/05lls /m/05pd6 /m/05r5c /m/05r5wn "
    "/m/05r6t /m/05rwpb /m/05w3f /m/064t9 /m/06by7 /m/06cqb /m/06j64v /m/06j6l /m/06ncr "
    "/m/06rqw /m/06rvn /m/06w87 /m/074ft /m/07brj /m/07c6l /m/07gql /m/07gxw /m/07kc_ "
    "/m/07lnk /m/07n_g /m/07pkxdp /m/07s0s5r /m/07s72n /m/07sbbz2 /m/07xzm /m/07y_7 "
    "/m/085jw /m/08cyft /m/0bm02 /m/0cfdd /m/0d8_n /m/0dl5d /m/0dls3 /m/0dq0md /m/0dwsp "
    "/m/0dwt5 /m/0dwtp /m/0f8s22 /m/0fd3y /m/0fx80y /m/0g293 /m/0gg8l /m/0ggq0m /m/0ggx5q "
    "/m/0glt670 /m/0gy1t2s /m/0gywn /m/0j45pbj /m/0jtg0 /m/0l14_3 /m/0l14gg /m/0l14j_ "
    "/m/0l14l2 /m/0l14md /m/0l14qv /m/0l14t7 /m/0l156b /m/0ln16 /m/0m0jc /m/0mbct /m/0mkg "
    "/m/0xzly /m/0y4f8 /m/0z9c /t/dd00031 /t/dd00032 /t/dd00033 /t/dd00034 /t/dd00035 "
    "/t/dd00036 /t/dd00037"
)
MUSIC = frozenset(_MUSIC.split())
"""Music and the released labels below it (instruments, genres, moods), but for those of SINGING."""

SPEECH_SINGING_AND_MUSIC = MUSIC | SPEECH.keys() | SINGING.keys()
