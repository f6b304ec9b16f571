"""Small talk as it is asked, and as what was said before another question; answers nothing itself."""

from __future__ import annotations

import random

from ..cases import Message, is_held_out
from .small_talk import INTENTS
from .wording import key, pick, roughened, wording

OF_THE_DOCUMENTS: tuple[tuple[str, str, str], ...] = (
    ("introduce", "en", "Hello, please introduce yourself"),
    ("introduce", "en", "You are an intelligent assistant developed by Aistudio and Wenxin Large Model. Please introduce yourself."),
    ("introduce", "zh", "你好，请介绍一下你自己"),
    ("introduce", "zh", "你是Aistudio和文心大模型开发的智能助手，请介绍一下你自己."),
    ("tutorial", "en", "Summarize the core steps of this tutorial"),
    ("tutorial", "zh", "总结本教程的核心步骤"),
    ("quiet_night", "en", "Rewrite Li Bai's 'Quiet Night Thought' as a modern poem"),
    ("quiet_night", "en", "Rewrite Li Bai's 'Quiet Night Thoughts' as a modern poem"),
    ("quiet_night", "zh", "把李白的静夜思改写为现代诗"),
    ("model_poem", "en", "Write me a poem about large language model."),
    ("about_models", "en", "Give me a short introduction to large language model."),
    ("shenzhen", "en", "What is the landmark building in Shenzhen?"),
    ("shenzhen", "zh", "深圳的地标建筑是什么？"),
    ("how_are_you", "en", "How are you"),
    ("how_are_you", "en", "Hello, how are you?"),
    ("age", "en", "How old are you"),
    ("hello", "en", "Hello!"),
    ("hello", "en", "Hello"),
    ("hello", "zh", "你好"),
    ("who", "en", "Who are you?"),
    ("who", "zh", "你是谁？"),
    ("no_media", "en", "Describe the image"),
)
"""Intent, language, prompt; the documents are FastDeploy's, ERNIE's model cards and their tutorial."""
_ALWAYS_LEARNT = frozenset(key(prompt) for _, _, prompt in OF_THE_DOCUMENTS)
_NAMES = tuple(name for name, intent in INTENTS.items() for _ in range(intent.weight))


def _is_always_learnt(question: str) -> bool:
    """Besides the documents' prompts whatever is so short that its words stand nowhere else: who never read 'Howdy' cannot know it."""
    return question in _ALWAYS_LEARNT or len(question) < (14 if question.isascii() else 7)


def intent_question(rng: random.Random, language: str) -> tuple[str, str, bool]:
    """Intent, question, and whether its wording is held out."""
    name = pick(rng, _NAMES)
    question = wording(rng, INTENTS[name].questions[language]).strip()
    question = roughened(rng, question[:1].upper() + question[1:])
    return name, question, not _is_always_learnt(key(question)) and is_held_out("documents", key(question))


def earlier(rng: random.Random, language: str, share: float) -> tuple[Message, ...]:
    """Nothing, or something said and answered before."""
    if rng.random() >= share:
        return ()
    name, question, held_out = intent_question(rng, language)
    while held_out:
        name, question, held_out = intent_question(rng, language)
    return ({"role": "user", "content": question}, {"role": "assistant", "content": INTENTS[name].answer[language]})
