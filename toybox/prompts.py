"""The sentences that results are measured on; a third of the reported ones are pairs of words that no training has.

Choices are made on DEVELOPMENT; figures are reported on REPORT, on which nothing is to be tuned. Three of its sentences
had a say in the Toybox preset all the same: the turtle, the airplane and the dog (docs/toybox.md gives the figures
without them), and a fourth in the shape of the rabbit. Imports nothing heavy.
"""

from __future__ import annotations

from toybox.captions import Caption
from toybox.words import OBJECTS

DEVELOPMENT = (
    "a frog",
    "an elephant wearing a red hat",
    "a black sheep",
    "a purple bear on a yellow cushion",
    "a duck",
    "a green snail",
    "a purple whale",
    "a green apple",
    "a cake on a turquoise plate",
    "a red chair",
    "a turquoise striped mug",
    "a yellow car",
    "a train",
    "a blue house",
    "a cactus",
)
REPORT = (
    "a blue bear wearing a red scarf",
    "an orange cat on a blue cushion",
    "a grey rabbit wearing a red hat",
    "a pig on a green box",
    "a purple spotted dinosaur",
    "a blue turtle",
    "a blue striped fish",
    "a red owl wearing a yellow crown",
    "a hamburger on a blue plate",
    "a purple ice cream",
    "a strawberry on a plate",
    "a pineapple",
    "a red spotted mug",
    "a green chair",
    "a yellow robot",
    "a striped gift",
    "a green truck",
    "a yellow airplane",
    "an orange rocket",
    "a windmill",
    # pairs that no training caption has; but the first prior of all, from which the present one descends, was trained
    # on the frog, the car and the mushroom as well
    "a purple frog",
    "a dog wearing a crown",
    "a yellow elephant",
    "a duck wearing a green hat",
    "a penguin wearing a red scarf",
    "a green octopus",
    "a blue donut",
    "a purple teapot",
    "a white car",
    "a pink mushroom",
)
# The first twelve objects without another word: what earlier figures were measured on.
OBJECTS12 = tuple(str(Caption(name)) for name in list(OBJECTS)[:12])
ALL = tuple(dict.fromkeys((*DEVELOPMENT, *REPORT, *OBJECTS12)))
LISTS = {"development": DEVELOPMENT, "report": REPORT, "objects": OBJECTS12}
