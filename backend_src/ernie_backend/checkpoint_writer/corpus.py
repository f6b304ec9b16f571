"""A small made-up text that the random checkpoint's tokenizer is trained on; knows no tokenizer."""

from __future__ import annotations

import random
from collections.abc import Iterator

_SUBJECTS = """
the server|a reader|my sister|the old captain|every student|our model|the river|a good friend|the young doctor|nobody
the first train|this book|the morning light|a small village|the whole family|his teacher|the engineer|a stranger
the weather|the city|our neighbour|the question|an answer|the garden|the machine|her letter|the children|a quiet voice
the winter|a long road|the committee|the scientist|the picture|the language
""".replace("\n", "|")
_VERBS = """
introduces|answers|remembers|describes|finds|carries|follows|writes|explains|builds|leaves|understands|believes in
waits for|looks at|talks about|returns to|begins with|learns from|asks about|thinks about|counts|translates|repairs
opens|reads|measures|compares|visits|paints|needs|likes
""".replace("\n", "|")
_OBJECTS = """
the capital of China|a short story|the history of computing|a beautiful poem|the weather in Beijing
an important question|the meaning of words|three simple rules|a list of numbers|the next sentence|some useful advice
the other side|a cup of tea|the largest planet|the speed of light|the best way home|an open window|the same problem
a new programming language|a delicious dinner|the results|nothing at all|everything|itself|their favourite music
a map of the world|the mountain|the sea|a difficult decision|the reason why|large language models|the user's message
""".replace("\n", "|")
_LINKS = ["and", "but", "because", "while", "so", "although", "when", "if", "before", "after", "and then", "or"]
_TALK = """
Hello, please introduce yourself.|Hello! How can I help you today?|I'm a helpful assistant.
Where is the capital of China?|Thank you very much.|Write me a poem about large language models.
What is the difference between them?|Of course, here is an example:|Let me think about it step by step.|User: hi
Assistant: Hello|You are a helpful assistant.|print("Hello, world!")|def main(): return None
for (i = 0; i < n; i++) { sum += x[i]; }|你好，请介绍一下你自己。|今天天气怎么样？
我是一个语言模型，很高兴为你服务。|中国的首都是北京。|请用中文回答这个问题。|谢谢！|人工智能的发展历史
""".replace("\n", "|")
_PUNCTUATION = [".", ".", ".", "!", "?", ";", ":", "..."]
_ASCII = "".join(chr(code) for code in range(33, 127))


def sentences(count: int = 4000, seed: int = 0) -> Iterator[str]:
    """`count` short sentences, the same for the same seed, plus one line with every printable ASCII character."""
    rng = random.Random(seed)
    subjects, verbs, objects, talk = ([part for part in text.split("|") if part] for text in (_SUBJECTS, _VERBS, _OBJECTS, _TALK))
    yield " ".join(_ASCII)
    for number in range(count):
        if number % 5 == 0:
            yield rng.choice(talk)
            continue
        clauses = [f"{rng.choice(subjects)} {rng.choice(verbs)} {rng.choice(objects)}" for _ in range(rng.choice((1, 1, 2)))]
        text = f" {rng.choice(_LINKS)} ".join(clauses)
        yield text[0].upper() + text[1:] + rng.choice(_PUNCTUATION)


def pseudo_words(seed: int = 0) -> Iterator[str]:
    """Endless distinct lower-case words of two or three pronounceable syllables, free of digits; the same for the same seed."""
    onsets = [
        "b",
        "br",
        "c",
        "ch",
        "d",
        "dr",
        "f",
        "fl",
        "g",
        "gr",
        "h",
        "j",
        "k",
        "l",
        "m",
        "n",
        "p",
        "pl",
        "qu",
        "r",
        "s",
        "st",
        "t",
        "tr",
        "v",
        "w",
    ]
    vowels = ["a", "e", "i", "o", "u", "ai", "ea", "io", "ou"]
    endings = ["", "", "l", "n", "r", "s", "t", "m", "nd", "ck"]
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        syllables = [rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.choice((2, 2, 3)))]
        word = "".join(syllables) + rng.choice(endings)
        if word not in seen:
            seen.add(word)
            yield word
