"""A teacher without network or model: it answers from captions and boxes by templates, and says only what they say.

The embedded default, for trying the pipeline, for tests and for the quickstart. A language model writes better data.
"""

import json
import random
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher

from ...endpoints.chat_model import CallError, Completion
from ...endpoints.request import Request
from ..answers.structured_detail import MIN_QA, MIN_WORDS
from .rule_reasoning import reasoning
from .scene import Scene, area, place, share
from .words import clause, counted, is_countable, joined, number_word, plural, sentence, with_article

Exchange = tuple[str, str]

MOST_EXCHANGES = 6
MOST_CLAIMS = 8

HAPPENING = (
    "What is happening in this picture?",
    "What does this picture show?",
    "What can you tell me about this scene?",
    "What is going on here?",
    "How would you sum up this scene?",
)
MORE = (
    "What else is there to say about it?",
    "Can you put the scene in other words?",
    "Could you add something to that?",
    "What would another person say about the scene?",
)
KINDS = (
    ("Which objects can be made out?", "One can make out {}."),
    ("What is there to be seen?", "Here one sees {}."),
    ("Name the things that stand out.", "What stands out: {}."),
    ("What belongs to this scene?", "It has {} in it."),
)
COUNTS = ("How many {} are there?", "How many {} can you count?", "What is the number of {} here?")
COUNTED = ("{} can be seen.", "I count {}.", "In all, {}.", "The picture has {}.")
PLACES = ("Where is the {}?", "In which part of the picture is the {}?", "Can you tell me where to find the {}?")
BESIDE = (
    ("Which is further left, the {} or the {}?", "The {a} is further left; the {b} is to the right of it."),
    ("On which side of the {b} is the {a}?", "The {a} is to the left of the {b}."),
    ("On which side of the {a} is the {b}?", "The {b} is to the right of the {a}."),
)
ABOVE = (
    ("Which is higher up in the picture, the {} or the {}?", "The {a} is higher up; the {b} is below it."),
    ("Is the {b} above or below the {a} in the picture?", "The {b} is below the {a}."),
)
LARGER = (
    ("Which takes up more of the picture, the {} or the {}?", "The {a} takes up far more of it than the {b}."),
    ("Does the {b} look larger than the {a} in the picture?", "No, the {a} looks much larger than the {b}."),
)


class RuleTeacher:
    """Answers any shipped type, the same for the same request and seed.

    Args:
        seed: Draws what is spoken of, and in which words.
    """

    name = "rule"
    model = "rule"

    def __init__(self, seed: int = 0):
        self.seed = seed

    async def answer(self, request: Request) -> Completion:
        """Answer from the request's context.

        Raises:
            CallError: There is no rule for the type, or the context has nothing to speak of.
        """
        if request.type not in RULES:
            raise CallError(f"the rule teacher has no rule for type {request.type!r}; it has {tuple(RULES)}.")
        scene = Scene(request.context)
        if not scene.captions and not scene.counts:
            raise CallError("the context has neither captions nor objects, and a rule cannot see the image.")
        text = RULES[request.type](scene, random.Random(f"{self.seed}/{request.key}"))
        return Completion(text, "stop", prompt_tokens=0, completion_tokens=0)

    async def close(self) -> None:
        """Nothing is held open."""


def conversation(scene: Scene, draw: random.Random) -> str:
    """Several exchanges on one image, in the form that the prompts ask for."""
    return _blocks(exchanges(scene, draw))


def exchanges(scene: Scene, draw: random.Random) -> list[Exchange]:
    """What is going on first, then what the boxes settle, in random order."""
    captions = draw.sample(scene.captions, len(scene.captions))
    first = [(draw.choice(HAPPENING), sentence(captions[0]))] if captions else []
    further = list(_about_objects(scene, draw))
    if len(captions) > 1:
        further.append((draw.choice(MORE), sentence(_most_different(captions[0], captions[1:]))))
    draw.shuffle(further)
    return [*first, *further[: MOST_EXCHANGES - len(first)]]


def _about_objects(scene: Scene, draw: random.Random) -> Iterator[Exchange]:
    if len(scene.counts) >= 2:
        question, answer = draw.choice(KINDS)
        kinds = [plural(k) if count > 1 and is_countable(k) else with_article(k) for k, count in scene.counts.items()]
        yield question, answer.format(joined(draw.sample(kinds, len(kinds))))
    several = [category for category in scene.countable() if scene.counts[category] > 1]
    for category in draw.sample(several, min(2, len(several))):
        told = draw.choice(COUNTED).format(counted(scene.counts[category], category))
        yield draw.choice(COUNTS).format(plural(category)), sentence(told)
    for category in draw.sample(scene.singles, min(2, len(scene.singles))):
        yield draw.choice(PLACES).format(category), f"The {category} is {place(scene.boxes[category][0])}."
    for pairs, words in ((scene.pairs_beside(), BESIDE), (scene.pairs_above(), ABOVE), (scene.pairs_larger(), LARGER)):
        if found := [pair for pair in pairs if all(map(is_countable, pair))]:
            a, b = draw.choice(found)
            question, answer = draw.choice(words)
            yield question.format(*sorted((a, b)), a=a, b=b), answer.format(a=a, b=b)


def detail(scene: Scene, draw: random.Random) -> str:
    """A description: the scene by two captions or more, then what is there, where, and how it stands to other things."""
    captions = sorted(scene.captions, key=len, reverse=True)
    said = [sentence(captions[0])] if captions else []
    others = captions[1:]
    while others and (len(said) < 2 or (not scene.counts and len(said) < 5)):
        said.append(sentence(_most_different(" ".join(said), others)))
        others = [caption for caption in others if sentence(caption) not in said]
    if scene.counts:
        said += [_inventory(scene, draw), *_places(scene, draw), *_relations(scene, draw)]
    return " ".join(said)


def _inventory(scene: Scene, draw: random.Random) -> str:
    known = scene.countable()
    items = []
    for category, count in scene.counts.items():
        if category in known or not is_countable(category):
            items.append(counted(count, category))
        else:
            items.append(plural(category) if count > 1 else with_article(category))
    opening = draw.choice(("One can make out {}.", "To be seen are {}.", "The scene holds {}.", "In it one finds {}."))
    return opening.format(joined(items))


def _places(scene: Scene, draw: random.Random) -> Iterator[str]:
    singles = sorted(scene.singles, key=lambda category: -area(scene.boxes[category][0]))[:5]
    for number, category in enumerate(singles):
        box = scene.boxes[category][0]
        verb = "are" if not is_countable(category) and category.endswith("s") else "is"
        covered = share(box) if number == 0 else None
        if covered:
            reach = "stretch" if verb == "are" else "stretches"
            yield f"The {category} {reach} over {covered} of the picture."
        else:
            yield draw.choice(("The {0} {1} {2}.", "The {0} {1} to be found {2}.")).format(category, verb, place(box))
    for category in scene.countable():
        places = list(dict.fromkeys(place(box) for box in scene.boxes[category]))
        if scene.counts[category] < 2:
            continue
        if len(places) == 1:
            every = "Both" if scene.counts[category] == 2 else f"All {number_word(scene.counts[category])}"
            yield f"{every} {plural(category)} are {places[0]}."
        else:
            yield f"Of the {plural(category)}, the leftmost is {places[0]} and the rightmost {places[-1]}."


def _relations(scene: Scene, draw: random.Random) -> Iterator[str]:
    beside, above = list(scene.pairs_beside()), list(scene.pairs_above())
    if beside:
        yield "From left to right, the {} comes before the {}.".format(*draw.choice(beside))
    if above:
        yield "The {} is higher up than the {}.".format(*draw.choice(above))


def structured(scene: Scene, draw: random.Random) -> str:
    """A description, a claim for each object or more, and questions, as JSON."""
    description = detail(scene, draw)
    for caption in scene.captions:
        if len(description.split()) >= MIN_WORDS:
            break
        if sentence(caption) not in description:
            description = f"{description} {sentence(caption)}"
    claims = [
        {"text": sentence(f"{with_article(category)} is {place(box)}"), "category": category, "bbox": box}
        for category, boxes in scene.boxes.items()
        for box in boxes
    ]
    if len(claims) == 1:
        only = claims[0]
        claims.append({**only, "text": f"Of the things that are marked out, the {only['category']} is the largest."})
    # What the description does not say already comes first
    asked = sorted(exchanges(scene, draw), key=lambda exchange: exchange[1] in description)
    fresh = sum(answer not in description for _, answer in asked)
    qa = [{"question": question, "answer": answer} for question, answer in asked[: max(MIN_QA, fresh)]]
    if len(claims) > MOST_CLAIMS:
        claims = draw.sample(claims, MOST_CLAIMS)
    return json.dumps({"description": description, "claims": claims, "qa": qa})


def _reasoning(scene: Scene, draw: random.Random) -> str:
    return _blocks([reasoning(scene, draw)])


def _blocks(pairs: list[Exchange]) -> str:
    return "\n===\n".join(f"Question:\n{question}\n===\nAnswer:\n{answer}" for question, answer in pairs)


def _most_different(text: str, others: list[str]) -> str:
    """Of several captions the one that shares least with a text."""
    return min(others, key=lambda other: SequenceMatcher(None, clause(text), clause(other)).ratio())


RULES: dict[str, Callable[[Scene, random.Random], str]] = {
    "conversation": conversation,
    "detail": detail,
    "vision_detail": detail,
    "reasoning": _reasoning,
    "structured": structured,
}
