"""The words Toybox knows: objects, colours, patterns, what can be worn and stood on, and other words for them.

Tables only, and nothing heavy is imported; toybox/captions.py makes sentences of them and understands sentences.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COLOURS = {
    "red": (0.85, 0.12, 0.10),
    "green": (0.20, 0.65, 0.20),
    "blue": (0.15, 0.30, 0.85),
    "yellow": (0.96, 0.82, 0.15),
    "orange": (0.96, 0.50, 0.10),
    "purple": (0.55, 0.20, 0.70),
    "pink": (0.96, 0.55, 0.70),
    "white": (0.93, 0.93, 0.93),
    "black": (0.10, 0.10, 0.10),
    "brown": (0.50, 0.30, 0.15),
    "grey": (0.52, 0.53, 0.55),
    "turquoise": (0.15, 0.75, 0.75),
}
PATTERNS = ("spotted", "striped")
WORN = {"hat": COLOURS["blue"], "crown": (0.95, 0.75, 0.10), "scarf": COLOURS["red"]}  # and the usual colour
SUPPORTS = {"box": COLOURS["brown"], "cushion": COLOURS["purple"], "plate": COLOURS["white"]}


@dataclass(frozen=True)
class Word:
    usual: tuple[float, float, float]  # the colour when none is said, RGB in [0, 1]
    kind: str  # the module of toybox/shapes that draws it
    has_front: bool = True  # does the back differ from the front at a glance
    wears: bool = False  # has a head for a hat or a crown, and a neck for a scarf
    one_sided: bool = False  # differs from its mirror image at a glance: a handle, a tail to one side
    synonyms: tuple[str, ...] = ()


OBJECTS = {
    "frog": Word(COLOURS["green"], "animals", wears=True, synonyms=("toad",)),
    "mushroom": Word(COLOURS["red"], "places", has_front=False, synonyms=("toadstool",)),
    "car": Word(COLOURS["red"], "vehicles", synonyms=("automobile",)),
    "duck": Word(COLOURS["yellow"], "creatures", wears=True, synonyms=("duckling",)),
    "chair": Word(COLOURS["brown"], "things", synonyms=("seat",)),
    "bear": Word(COLOURS["brown"], "animals", wears=True, synonyms=("teddy bear", "teddy")),
    "snowman": Word(COLOURS["red"], "places"),
    "hamburger": Word((0.85, 0.58, 0.25), "food", has_front=False, synonyms=("burger", "cheeseburger")),
    "penguin": Word(COLOURS["black"], "creatures", wears=True),
    "rocket": Word(COLOURS["red"], "vehicles", synonyms=("spaceship",)),
    "house": Word(COLOURS["red"], "places", synonyms=("cottage",)),
    "tree": Word(COLOURS["green"], "places", has_front=False, synonyms=("fir", "pine", "christmas tree")),
    # animals
    "cat": Word(COLOURS["orange"], "animals", wears=True, one_sided=True, synonyms=("kitten", "kitty")),
    "dog": Word(COLOURS["brown"], "animals", wears=True, synonyms=("puppy",)),
    "rabbit": Word(COLOURS["grey"], "animals", wears=True, synonyms=("bunny", "hare")),
    "pig": Word(COLOURS["pink"], "animals", wears=True, synonyms=("piglet", "piggy")),
    "elephant": Word(COLOURS["grey"], "animals", wears=True),
    "sheep": Word(COLOURS["white"], "animals", wears=True, synonyms=("lamb",)),
    "mouse": Word(COLOURS["grey"], "animals", wears=True, one_sided=True),
    "dinosaur": Word(COLOURS["green"], "creatures", wears=True, synonyms=("dino",)),
    "turtle": Word(COLOURS["green"], "creatures", synonyms=("tortoise",)),
    "owl": Word(COLOURS["brown"], "creatures", wears=True),
    "bee": Word(COLOURS["yellow"], "creatures", synonyms=("bumblebee",)),
    "snail": Word(COLOURS["orange"], "creatures"),
    "fish": Word(COLOURS["orange"], "creatures", synonyms=("goldfish",)),
    "whale": Word(COLOURS["blue"], "creatures"),
    "octopus": Word(COLOURS["purple"], "creatures"),
    # food
    "donut": Word(COLOURS["pink"], "food", has_front=False, synonyms=("doughnut",)),
    "ice cream": Word(COLOURS["pink"], "food", has_front=False, synonyms=("icecream", "ice cream cone")),
    "cake": Word(COLOURS["pink"], "food", has_front=False, synonyms=("birthday cake",)),
    "apple": Word(COLOURS["red"], "food", has_front=False),
    "carrot": Word(COLOURS["orange"], "food", has_front=False),
    "pineapple": Word(COLOURS["yellow"], "food", has_front=False),
    "strawberry": Word(COLOURS["red"], "food", has_front=False),
    "cupcake": Word(COLOURS["turquoise"], "food", has_front=False, synonyms=("muffin",)),
    # things
    "mug": Word(COLOURS["blue"], "things", one_sided=True, synonyms=("cup",)),
    "teapot": Word(COLOURS["turquoise"], "things", one_sided=True),
    "table": Word(COLOURS["brown"], "things", has_front=False, synonyms=("desk",)),
    "lamp": Word(COLOURS["yellow"], "things", has_front=False),
    "hammer": Word(COLOURS["red"], "things", has_front=False, one_sided=True),
    "key": Word(COLOURS["yellow"], "things", has_front=False, one_sided=True),
    "book": Word(COLOURS["blue"], "things"),
    "gift": Word(COLOURS["red"], "things", has_front=False, synonyms=("present",)),
    "robot": Word(COLOURS["turquoise"], "things", wears=True, synonyms=("android",)),
    "clock": Word(COLOURS["red"], "things", synonyms=("alarm clock",)),
    # vehicles
    "truck": Word(COLOURS["blue"], "vehicles", synonyms=("lorry",)),
    "train": Word(COLOURS["green"], "vehicles", synonyms=("locomotive",)),
    "boat": Word(COLOURS["blue"], "vehicles", one_sided=True, synonyms=("sailing boat", "sailboat", "ship")),
    "airplane": Word(COLOURS["white"], "vehicles", synonyms=("plane", "aeroplane")),
    "helicopter": Word(COLOURS["yellow"], "vehicles"),
    "bus": Word(COLOURS["yellow"], "vehicles"),
    # nature and buildings
    "cactus": Word(COLOURS["green"], "places", has_front=False, one_sided=True),
    "flower": Word(COLOURS["pink"], "places", synonyms=("daisy",)),
    "pumpkin": Word(COLOURS["orange"], "places"),
    "castle": Word(COLOURS["grey"], "places"),
    "lighthouse": Word(COLOURS["red"], "places", has_front=False),
    "windmill": Word(COLOURS["white"], "places", one_sided=True),
}
OTHER_SYNONYMS = {  # of what is no object
    "gray": "grey",
    "violet": "purple",
    "cyan": "turquoise",
    "teal": "turquoise",
    "dotted": "spotted",
    "polka dot": "spotted",
    "stripy": "striped",
    "stripey": "striped",
    "cap": "hat",
    "top hat": "hat",
    "pillow": "cushion",
    "crate": "box",
    "cube": "box",
    "dish": "plate",
}
PHRASINGS = ("", "a photo of ", "a dslr photo of ", "a 3d model of ", "a rendering of ")
VIEWS = ("front", "side", "back", "overhead")
LINKS = frozenset(("wearing", "with", "in", "on"))  # what comes after them belongs to another noun
FILLERS = frozenset(
    "a an the of photo dslr 3d model rendering render picture image toy cute little small lovely highly detailed and "
    "its it s that is top sitting standing lying ,".split()
)

MEANINGS = {  # every word or phrase that is no filler -> (what it is, how the prior's captions say it)
    **{word: ("colour", word) for word in COLOURS},
    **{word: ("pattern", word) for word in PATTERNS},
    **{word: ("worn", word) for word in WORN},
    **{word: ("support", word) for word in SUPPORTS},
    **{word: ("object", word) for word in OBJECTS},
    **{synonym: ("object", name) for name, word in OBJECTS.items() for synonym in word.synonyms},
}
MEANINGS |= {synonym: MEANINGS[word] for synonym, word in OTHER_SYNONYMS.items()}

KINDRED = {  # words that users try, and the nearest in meaning that is here
    **dict.fromkeys(("dragon", "lizard", "crocodile", "alligator", "monster", "trex"), "dinosaur"),
    **dict.fromkeys(("lion", "tiger", "leopard", "cheetah", "panther"), "cat"),
    **dict.fromkeys(("wolf", "fox", "corgi", "poodle"), "dog"),
    **dict.fromkeys(("panda", "koala", "monkey", "gorilla"), "bear"),
    **dict.fromkeys(("rat", "hamster", "squirrel", "hedgehog"), "mouse"),
    **dict.fromkeys(("goat", "cow", "horse", "pony", "unicorn", "donkey"), "sheep"),
    **dict.fromkeys(("bird", "chick", "chicken", "hen", "goose", "swan"), "duck"),
    **dict.fromkeys(("eagle", "parrot", "raven"), "owl"),
    **dict.fromkeys(("shark", "dolphin"), "whale"),
    **dict.fromkeys(("squid", "jellyfish", "crab"), "octopus"),
    **dict.fromkeys(("butterfly", "ladybug", "insect", "beetle", "wasp"), "bee"),
    **dict.fromkeys(("ufo", "spacecraft", "shuttle"), "rocket"),
    **dict.fromkeys(("jet", "aircraft"), "airplane"),
    **dict.fromkeys(("van", "taxi", "jeep", "vehicle"), "car"),
    **dict.fromkeys(("tower", "fortress", "palace"), "castle"),
    **dict.fromkeys(("home", "hut", "cabin", "building", "barn"), "house"),
    **dict.fromkeys(("rose", "tulip", "sunflower"), "flower"),
    **dict.fromkeys(("sandwich", "hotdog", "pizza"), "hamburger"),
    **dict.fromkeys(("sofa", "couch", "bench", "stool", "armchair", "throne"), "chair"),
    **dict.fromkeys(("kettle",), "teapot"),
    **dict.fromkeys(("man", "person", "human", "astronaut", "knight"), "robot"),
    **dict.fromkeys(("helmet", "bonnet", "beanie", "sombrero"), "hat"),
    **dict.fromkeys(("tie", "necklace", "shawl"), "scarf"),
    **dict.fromkeys(("silver", "metal", "stone"), "grey"),
    **dict.fromkeys(("gold", "golden"), "yellow"),
    **dict.fromkeys(("crimson", "scarlet"), "red"),
}


def words_of(text):
    """Lower-case words, of any script, and commas of a sentence."""
    return re.findall(r"[^\W_]+|,", text.lower())


def article(word):
    """a or an, for the word that follows."""
    return "an" if word[0] in "aeiou" else "a"


def vocabulary():
    """Every word that a caption of the training pictures or a sentence that is understood can hold, sorted."""
    phrases = [*MEANINGS, *LINKS, *FILLERS, *PHRASINGS, "left right view", *VIEWS]
    return sorted({word for phrase in phrases for word in words_of(phrase)})
