"""Sentences of a closed vocabulary: a context-free grammar, one rule a line.

`name: this | or <that>` expands `<name>` into one of its alternatives, all equally likely; an
alternative that appears twice is twice as likely. A word `written~spoken` is pronounced as the
second part says, in espeak-ng's phoneme notation where it stands in double brackets.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

RULES = """
sentence: <schedule> | <schedule> | <command> | <command> | <everyday> | <everyday> | <everyday>
sentence: <number_fact> | <spelling> | <travel> | <weather> | <shopping> | <question> | <question>
sentence: <home> | <telephone> | <story>

digit: zero | one | two | three | four | five | six | seven | eight | nine
unit: one | two | three | four | five | six | seven | eight | nine
teen: ten | eleven | twelve | thirteen | fourteen | fifteen | sixteen | seventeen | eighteen
teen: nineteen
tens: twenty | thirty | forty | fifty | sixty | seventy | eighty | ninety
small: <unit> | <teen> | <tens> | <tens> <unit>
count: two | three | four | five | six | seven | eight | nine | ten | eleven | twelve | twenty
large: <unit> hundred | <unit> hundred and <small> | <unit> thousand | <small> thousand <large_rest>
large_rest: <unit> hundred | and <small> | <unit> hundred and <small>
number: <small> | <small> | <large>
digits: <digit> <digit> <digit> | <digit> <digit> <digit> <digit> | <digit> <digit>

ordinal: first | second | third | fourth | fifth | sixth | seventh | eighth | ninth | tenth
ordinal: eleventh | twelfth | thirteenth | fourteenth | fifteenth | sixteenth | seventeenth
ordinal: eighteenth | nineteenth | twentieth | twenty first | twenty second | twenty third
ordinal: twenty fourth | twenty fifth | twenty sixth | twenty seventh | twenty eighth
ordinal: twenty ninth | thirtieth | thirty first
day: monday | tuesday | wednesday | thursday | friday | saturday | sunday
month: january | february | march | april | may | june | july | august | september | october
month: november | december
date: the <ordinal> of <month> | <month> the <ordinal> | <day> the <ordinal> of <month>
hour: one | two | three | four | five | six | seven | eight | nine | ten | eleven | twelve
minutes: five | ten | twenty | twenty five
time: <hour> | half past <hour> | quarter past <hour> | quarter to <hour>
time: <minutes> past <hour> | <minutes> to <hour> | <hour> thirty | <hour> fifteen | noon | midnight
part: in the morning | in the afternoon | in the evening | at night
when: today | tomorrow | on <day> | next <day> | next week | next month | tonight | at <time>
when: at <time> <part> | on <date> | this morning | this evening

colour: red | green | blue | yellow | orange | purple | black | white | brown | grey | pink | silver
adjective: big | small | old | new | long | short | heavy | light | warm | cold | clean | quiet
adjective: bright | empty | broken | beautiful | simple | strong
letter: a~[['eI]] | b | c | d | e | f | g | h | i | j | k | l | m | n | o | p | q | r | s | t | u
letter: v | w | x | y | z
letters: <letter> <letter> | <letter> <letter> <letter> | <letter> <letter> <letter> <letter>

name: anna | peter | maria | david | susan | robert | laura | michael | emma | thomas | julia
name: oscar
person: my brother | my sister | my mother | my father | our teacher | the doctor | my friend
person: the driver | the manager | <name> | <name> | <name> | <name>
who: i | we | they | you
room: kitchen | bedroom | bathroom | office | garage | garden | hall | library
device: lamp | radio | television | heater | fan | alarm | camera | printer | computer | door
thing: table | chair | box | book | letter | picture | bottle | cup | key | bag | coat | shirt
thing: ball
thing: window | clock | car | bicycle | house | bridge | boat
animal: dog | cat | horse | bird | fish | cow | sheep | rabbit
animals: dogs | cats | horses | birds | cows | rabbits
place: london | paris | berlin | madrid | boston | chicago | dublin | rome
spot: station | school | market | hospital | museum | hotel | airport | church | bank | beach | park
food: bread | butter | cheese | milk | coffee | tea | water | rice | soup | fruit | meat | sugar
foods: apples | oranges | eggs | potatoes | tomatoes | bananas | onions | carrots
meal: breakfast | lunch | dinner

event: meeting | lesson | concert | party | game | interview | film | wedding
schedule: the <event> is at <time> <when_day> | the <event> starts at <time> <part>
schedule: the <event> is on <date> | the <event> with <name> is <when>
schedule: we have a <event> at <time> on <date> | <name> moved the <event> to <day> at <time>
schedule: the <event> on <day> begins at <time> and ends at <time>
when_day: on <day> | on <date> | tomorrow | today | next <day>

switch: on | off
command: turn <switch> the <device> in the <room> | turn the <device> <switch> | open the <opening>
command: close the <opening> | set the <device> to <number> | set an alarm for <time> <part>
command: play the <ordinal> song | play some music in the <room> | stop the music | go back
command: turn left at the <spot> | turn right after the <spot> | start the <device> at <time>
command: increase the volume to <small> | move the <colour> <thing> to the <room>
command: put the <colour> <thing> on the <adjective> table | send a message to <name>
command: read the <ordinal> page again | wait for <count> minutes | call <name> <when>
command: save the file
command: delete the last message | show me the way to the <spot>
command: remind me to call <name> at <time>
command: bring me the <adjective> <colour> <thing>
opening: window | door | garage | box | file | <colour> door

everyday: <person> is in the <room> | <who> would like a cup of <drink>
everyday: <person> lives near the <spot> | the <colour> <thing> is very <adjective>
everyday: there is a <adjective> <thing> in the <room> | there are <count> <animals> in the garden
everyday: <who> have a <adjective> <animal> and <count> <animals>
everyday: <person> bought a <adjective> <colour> <thing> | <person> wants to see the <animal>
everyday: please give me the <colour> <thing> | <person> is looking for the <adjective> <thing>
everyday: i think the <thing> is under the <adjective> chair | thank you very much for the <thing>
everyday: good morning <name> how are you today | it is nice to see you again
everyday: <who> do not know where the <thing> is | the <animal> is sleeping on the <thing>
everyday: <person> works at the <spot> every <day> | <who> always eat <food> for <meal>
drink: tea | coffee | water | milk

number_fact: <number> and <number> is <number> | the answer is <number> | page <number>
number_fact: the number is <digits> | the room is on the <ordinal> floor
number_fact: <number> people live here | it is <number> miles from <place> to <place>
number_fact: she is <small> years old | my house is number <small> | the code is <digits>
number_fact: chapter <small> begins on page <large>
spelling: the letter is <letter> | please spell <letters>
spelling: the word begins with the letters <letters>
spelling: the code is <letter> <digits> | my name is spelled <letters>
spelling: flight <letter> <letter> <digits> | the letters are <letters>
travel: the train to <place> leaves at <time> | the bus to the <spot> leaves every <count> minutes
travel: the flight from <place> to <place> is <late> | <who> will fly to <place> <when>
travel: a ticket to <place> costs <small> dollars | <person> will drive from <place> to <place>
travel: platform <unit> for the train to <place> | take the <ordinal> street on the left
late: late | early | full | on time
sky: sunny | cloudy | windy | rainy | cold | warm
weather: it will be <sky> in <place> <when> | the weather in <place> is <sky> and <sky>
weather: it is <small> degrees in <place> | it rained <when_past> | there was snow in <month>
when_past: yesterday | last night | last week | all day
shopping: i need <count> <foods> and some <food> | <person> needs <food> and <food>
shopping: the <foods> cost <small> dollars | buy <count> <foods> and a bottle of <drink>
shopping: how much is the <adjective> <colour> <shirt> | two cups of <drink> please
shirt: shirt | coat | bag | hat
question: where is the <adjective> <thing> | what time is it in <place> | who is in the <room>
question: when does the <event> start | how many <animals> are in the <spot>
question: can you open the <opening> please | do you have a <adjective> <thing>
question: what is the weather like in <place> | is the <colour> <thing> in the <room>
question: did <person> call you yesterday | are you coming to the <event> <when>
question: how old is the <animal> | why is the <device> so <adjective>
home: the <device> in the <room> is <switch> | the <room> is <adjective> and <adjective>
home: <person> cleaned the <room> yesterday | <meal> is ready at <time>
home: the key is in the <colour> box near the <opening>
telephone: my number is <digit> <digits> <digits> | please call me back <when>
telephone: dial <digits> <digits> for help | this is <name> speaking
story: the <adjective> <animal> ran over the <adjective> bridge
story: <name> and <name> went to the <spot>
story: the <colour> bird sat on the <thing> and looked at the <animal>
story: after <meal> <person> walked to the <spot> with the <animal>
story: last <month> <name> found a <colour> <thing> at the <spot>
story: before <meal> <name> told <name> about the <adjective> <thing>
"""


@dataclass(frozen=True)
class Sentence:
    """What is said: `text` as the transcript has it, `spoken` as espeak-ng is told."""

    text: str
    spoken: str


def parse(rules: str) -> dict[str, list[list[str]]]:
    """Rule text to the alternatives, as lists of words, of each name."""
    grammar: dict[str, list[list[str]]] = {}
    for line in filter(None, map(str.strip, rules.splitlines())):
        name, _, alternatives = line.partition(":")
        grammar.setdefault(name, []).extend(part.split() for part in alternatives.split("|"))
    return grammar


GRAMMAR = parse(RULES)

# Of which words are made that do not exist: as English spells and the synthesizer reads them.
_ONSETS = (
    *("", *"bcdfghjklmnprstvwz") * 3,
    *("bl", "br", "ch", "cl", "cr", "dr", "fl", "fr", "gl", "gr", "kr", "ph", "pl", "pr", "qu"),
    *("sh", "sk", "sl", "sm", "sn", "sp", "st", "str", "sw", "th", "tr", "y"),
)
_VOWELS = (*"aeiou" * 6, "y", "ai", "ar", "au", "ea", "ee", "er", "ia", "ie", "oo", "or", "ou")
_CODAS = (*("",) * 24, *"bdfgklmnprst" * 2, "ck", "ll", "ng", "nd", "nt", "ss", "st", "th", "x")
_REFERENCE = re.compile(r"<(\w+)>")


def vocabulary() -> tuple[str, ...]:
    """Every word that the grammar can write, sorted."""
    words = {
        word.partition("~")[0]
        for alternatives in GRAMMAR.values()
        for alternative in alternatives
        for word in alternative
        if not _REFERENCE.fullmatch(word)
    }
    return tuple(sorted(words))


_VOCABULARY = frozenset(vocabulary())


def sentence(rng: random.Random, start: str = "sentence") -> Sentence:
    """One random sentence."""
    words = list(_expand(start, rng))
    text = " ".join(word.partition("~")[0] for word in words)
    return Sentence(text, " ".join(word.rpartition("~")[2] for word in words))


def paragraph(rng: random.Random, sentences: int) -> Sentence:
    """Several sentences in a row, with pauses between them when spoken."""
    parts = [sentence(rng) for _ in range(sentences)]
    return Sentence(" ".join(p.text for p in parts), ". ".join(p.spoken for p in parts))


def with_made_word(said: Sentence, rng: random.Random) -> Sentence:
    """The sentence with a word that does not exist in the place of one of its words."""
    words, spoken = said.text.split(), said.spoken.split()
    place = rng.randrange(len(words))
    words[place] = spoken[place] = _made_word(rng)
    return Sentence(" ".join(words), " ".join(spoken))


def _made_word(rng: random.Random) -> str:
    while True:
        word = "".join(
            rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
            for _ in range(rng.choice((1, 2, 2, 3, 3, 4)))
        )
        if word not in _VOCABULARY:
            return word


def _expand(name: str, rng: random.Random) -> list[str]:
    words: list[str] = []
    for word in rng.choice(GRAMMAR[name]):
        reference = _REFERENCE.fullmatch(word)
        words.extend(_expand(reference[1], rng) if reference else [word])
    return words
