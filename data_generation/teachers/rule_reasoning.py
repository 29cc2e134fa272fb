"""Questions that take a step of thought, by rule: who is nearer, what the subject is, what comes before what."""

import random
from collections.abc import Callable

from .scene import Scene, area, place, share
from .words import clause, is_countable, joined, number_word, plural, sentence

Exchange = tuple[str, str]

# How much larger the largest of a kind must look before it can be called nearer
NEARER = 2.5
MOST_IN_ORDER = 5
# The steps from sizes to distances, each in several wordings
NEARER_STEPS = (
    (
        "Things of the same kind look larger the closer they are, and this one takes up {times} as much of the picture as "
        "the {kind} {far}.",
        "Compared with the {kind} {far}, it covers {times} the area, though both are of a kind and so of a similar size.",
        "It fills {times} the area of the {kind} {far}, and distance is the usual cause of such a difference.",
    ),
    (
        "It also reaches further down, where near things usually end.",
        "Its lower end is further down as well, as one would expect of what stands close by.",
        "What is more, its lower end is the lower one of the two, which fits that.",
    ),
    (
        "The {kind} {far} looks much smaller and ends higher up, so it is probably further back.",
        "The {kind} {far} is therefore likely to be a good way behind it.",
        "So, going by size and height alike, the {kind} {far} should be the more distant one.",
    ),
)


def reasoning(scene: Scene, draw: random.Random) -> Exchange:
    """One question and its answer; by captions alone where the boxes settle nothing."""
    found = [exchange for rule in RULES if (exchange := rule(scene, draw))]
    return draw.choice(found) if found else _summary(scene, draw)


def _nearest(scene: Scene, draw: random.Random) -> Exchange | None:
    """Things of one kind look larger the nearer they are, and near things reach further down."""
    fitting = []
    for category, boxes in scene.boxes.items():
        large, small = max(boxes, key=area), min(boxes, key=area)
        is_clear = area(large) >= NEARER * area(small) and large[3] > small[3] and place(large) != place(small)
        if (
            is_clear
            and is_countable(category)
            and all(place(box) != place(large) for box in boxes if box is not large)
        ):
            fitting.append((category, large, small))
    if not fitting:
        return None
    category, large, small = draw.choice(fitting)
    question = draw.choice(
        (
            "Which of the {} is probably the nearest, and what speaks for it?",
            "One of the {} seems to be closer than another. Which one, and how can one tell?",
            "If you had to walk up to the {}, which one would you most likely reach first, and why?",
        )
    )
    words = {"kind": category, "near": place(large), "far": place(small), "times": _times(area(large) / area(small))}
    steps = [draw.choice(ways).format(**words) for ways in NEARER_STEPS]
    answer = " ".join([f"{_opening(scene, draw)} the {category} {place(large)} is most likely the nearest.", *steps])
    return question.format(plural(category)), answer


def _subject(scene: Scene, draw: random.Random) -> Exchange | None:
    """What covers most and is spoken of is what the picture is about."""
    largest = sorted(scene.singles, key=lambda category: -area(scene.boxes[category][0]))
    if not largest or share(scene.boxes[largest[0]][0]) is None or len(scene.counts) < 2:
        return None
    main, box = largest[0], scene.boxes[largest[0]][0]
    spoken = [caption for caption in scene.captions if main in caption.lower()]
    others = [category for category in scene.counts if category != main]
    if not spoken or any(area(other) * 2 > area(box) for category in others for other in scene.boxes[category]):
        return None
    names = joined([f"the {plural(o) if scene.counts[o] > 1 and is_countable(o) else o}" for o in others])
    question = draw.choice(
        (
            "What is this picture mainly about, and how can one tell?",
            "What was probably meant to catch the eye here, and why?",
            "If only one thing could be kept in this picture, which one should it be, and for what reason?",
        )
    )
    answer = (
        f"Most likely it is the {main}. It stretches over {share(box)} of the picture, at least twice as much as "
        f"anything else that stands out, and the eye goes first to what is large. What happens turns on it as well: "
        f"{clause(draw.choice(spoken))}. Next to that, {names} {_rather(len(names.split(' and ')) > 1, names)} rather part "
        "of the surroundings."
    )
    return question, answer


def _order(scene: Scene, draw: random.Random) -> Exchange | None:
    """What one passes on the way across the picture."""
    singles = [category for category in scene.boxes if category in scene.singles and is_countable(category)]
    singles.sort(key=lambda category: sum(scene.boxes[category][0][::2]))
    row: list[str] = []
    for category in singles:
        if not row or scene.boxes[row[-1]][0][2] <= scene.boxes[category][0][0]:
            row.append(category)
    row = row[:MOST_IN_ORDER]
    if len(row) < 3:
        return None
    first, *between, last = row
    question = draw.choice(
        (
            f"Suppose a finger moves across the picture from the {first} to the {last}. What does it pass, and in which "
            "direction does it go?",
            f"Could one cut the picture from top to bottom so that the {first} and the {last} end up apart? What would "
            "have to be minded?",
        )
    )
    answer = (
        f"{_opening(scene, draw)} the {first} comes first from the left, {place(scene.boxes[first][0])}, and the {last} is "
        f"further right, {place(scene.boxes[last][0])}. So the way from one to the other goes from left to right. Between "
        f"the two {'lies' if len(between) == 1 else 'lie'} {joined([f'the {b}' for b in between])}. None of them overlaps "
        f"with another from side to side. Therefore a finger passes {joined([f'the {b}' for b in between])} on the way, and "
        f"a cut from top to bottom can keep the {first} and the {last} apart without touching any of these."
    )
    return question, answer


def _summary(scene: Scene, draw: random.Random) -> Exchange:
    """What several observations come to."""
    captions = draw.sample(scene.captions, len(scene.captions))[:4]
    question = draw.choice(
        (
            "Which observations help to understand this scene, and what do they come to?",
            "How can one work out what this scene is about, step by step?",
            "What in this picture tells what kind of situation it is?",
        )
    )
    if not captions:
        kinds = joined([f"the {plural(k) if n > 1 and is_countable(k) else k}" for k, n in scene.counts.items()])
        return question, f"What helps most is what is there: {kinds}. Together they make the place what it is."
    if len(captions) == 1:
        return (
            question,
            f"The first thing that one notices is this: {clause(captions[0])}. Everything else follows from it.",
        )
    steps = [f"The first thing to notice is this: {clause(captions[0])}."]
    steps += [
        f"{word}: {clause(text)}." for word, text in zip(("Looking closer", "Besides"), captions[1:-1], strict=False)
    ]
    steps.append(f"Taken together, it all comes down to one situation: {clause(captions[-1])}.")
    return question, " ".join(steps)


RULES: tuple[Callable[[Scene, random.Random], Exchange | None], ...] = (_nearest, _subject, _order)


def _opening(scene: Scene, draw: random.Random) -> str:
    """A first sentence that tells this scene from others, if a caption gives one; then words to go on with."""
    goes_on = draw.choice(("Looking at it closely,", "In this scene,", "As far as one can see,", "Here,"))
    return f"{sentence(draw.choice(scene.captions))} {goes_on}" if scene.captions else goes_on


def _times(ratio: float) -> str:
    whole = int(ratio + 0.5)
    return f"about {number_word(whole)} times" if whole <= 10 else "more than ten times"


def _rather(several: bool, names: str) -> str:
    return "are" if several or names.endswith("s") else "is"
