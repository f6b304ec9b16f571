"""Capitals, asked forward and back, to be confirmed or denied, and in follow-ups, in English and Chinese.

Every country is learnt; held out are wordings of the question, with whatever country.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..cases import Case, Message, for_evaluation, for_training, is_held_out
from ..text.conversation import earlier
from ..text.countries import ALIASES, COUNTRIES, REGIONS, Country
from ..text.small_talk import UNKNOWN
from ..text.tool_values import OTHER_CITIES
from ..text.wording import LANGUAGES, fill, key, pick, plain, roughened, wording

QUESTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("capital", "en"): (
        "[What|Which city] is the [capital|capital city] of {country}?",
        "[What is|What's|Where is|Where's|whats] {country_of} capital[ city|]?",
        "Where is the [capital|capital city] of {country}[ located|]?",
        "[Can|Could] you [please |][tell me|say] [what|which city] the capital of {country} is?",
        "[Please tell|Tell] me the capital[ city|] of {country}[.|, please.|]",
        "[Name|Give me|I need|I want to know] the capital[ city|] of {country}[.|]",
        "[Do you know|I wonder|I would like to know] [what|which city] the capital of {country} is[?|]",
        "The capital[ city|] of {country} is[ …|...|:|]",
        "[Which|What] city is the capital of {country}?",
        "{country_of} capital[?|:|]",
        "[capital of {country}|{bare}, capital]",
        "[Quick question|A question|Question|Hi|Hello][:|,|!] [what is|which city is] the capital of {country}?",
        "Which city is {country_of} capital?",
        "I am [planning a trip|travelling|going] to {country}. [What is|What's] the capital[ there|]?",
    ),
    ("capital", "zh"): (
        "{country}的首都[是哪里|是哪|在哪里|在哪|是什么|是哪个城市|是哪座城市|叫什么|是][？|]",
        "[请问|你知道|我想知道|请告诉我|告诉我|想问一下，|问一下][，|]{country}的首都[是哪里|在哪里|是哪个城市|是什么][？|吗？|]",
        "[哪个|哪座|哪一个]城市是{country}的首都？",
        "{country}[首都|的首都|首都是|首都是哪里|首都在哪]？",
        "[说出|写出|给出|请说出|请给出]{country}的首都[。|]",
        "{country}[以哪个城市为首都|把首都设在哪里|的首都城市叫什么名字]？",
        "我[要|想|准备]去{country}[旅游|旅行|]，[它的|那里的]首都是[哪里|哪个城市]？",
        "[你好|您好|嗨]，[请问|]{country}的首都是[哪里|哪个城市]？",
    ),
    ("country", "en"): (
        "{capital} is the capital[ city|] of [which|what] country?",
        "[Which|What] country has {capital} as its capital[ city|]?",
        "[Which|What] country's capital is {capital}?",
        "[Of which|Of what] country is {capital} the capital[ city|]?",
        "[Tell me|Name|Please tell me] the country whose capital is {capital}[.|]",
        "{capital} is the capital of[ …|...|:|]",
        "[Can|Could] you tell me which country {capital} is the capital of?",
        "[Do you know|I wonder] [which|what] country has the capital {capital}[?|]",
        "[What|Which country] is {capital} the capital of?",
        "I live in {capital}, the capital[ city|]. [In which|Which] country is that?",
    ),
    ("country", "zh"): (
        "{capital}是[哪个国家|哪国|什么国家|哪一个国家]的首都[？|]",
        "[哪个|哪一个|什么]国家的首都是{capital}[？|]",
        "[请问|你知道|我想知道|告诉我][，|]{capital}是[哪个国家|哪国]的首都[？|吗？|]",
        "[首都是|首都为]{capital}的[国家是哪个|是哪个国家|国家叫什么]？",
        "以{capital}为首都的[是哪个国家|国家是哪个]？",
        "[说出|请说出]首都是{capital}的国家[。|]",
        "我住在{capital}，这是[哪个国家|哪国]的首都？",
    ),
    ("check", "en"): (
        "Is {capital} the capital[ city|] of {country}?",
        "Is the capital of {country} {capital}?",
        "[Is it true|Is it right|Is it correct] that {capital} is the capital of {country}?",
        "{capital} is the capital of {country}, [right|isn't it|correct|true or false]?",
        "[True or false|Right or wrong|Yes or no]: {capital} is the capital of {country}[.|?]",
        "[Does {country} have|Has {country}] {capital} as its capital?",
        "[Am I right that|I think|I believe] {capital} is the capital of {country}[?|. Right?|, is that so?|. Am I right?]",
    ),
    ("check", "zh"): (
        "{capital}是{country}的首都吗[？|]",
        "{country}的首都是{capital}[吗|对吗|，对吗|，是不是|，对不对]？",
        "{country}的首都[是|就是]{capital}[，没错吧|，对吧|，是吧]？",
        "[判断对错|对还是错|是或否]：{capital}是{country}的首都。",
        "[我觉得|我记得|听人说]{capital}是{country}的首都，[对吗|对不对|是这样吗]？",
        "[请问|听说]{capital}是{country}的首都[，对吗|吗|，是真的吗]？",
    ),
    ("follow", "en"): (
        "[And|and|And what about|What about|How about|And how about] {country}?",
        "And [of|for|in] {country}?",
        "[And the|And what is the|And the capital of|Now the] [one of |one for |]{country}?",
        "[Now|And now] {country}[.|, please.|?]",
    ),
    ("follow", "zh"): (
        "[那|那么|]{country}呢？",
        "[那|那么]{country}的呢？",
        "[还有|再说说|换成]{country}[呢|]？",
        "{country}[的呢|又是哪里]？",
    ),
}
ANSWERS = {
    ("capital", "en"): "The capital of {country} is {capital}.",
    ("capital", "zh"): "{country}的首都是{capital}。",
    ("country", "en"): "{capital} is the capital of {country}.",
    ("country", "zh"): "{capital}是{country}的首都。",
    ("yes", "en"): "Yes, {capital} is the capital of {country}.",
    ("yes", "zh"): "是的，{capital}是{country}的首都。",
    ("no", "en"): "No, the capital of {country} is {capital}.",
    ("no", "zh"): "不是，{country}的首都是{capital}。",
}
_REASONS = {
    ("capital", "en"): "The user asks for the capital of {country}. It is {capital}.",
    ("capital", "zh"): "用户问{country}的首都。它是{capital}。",
    ("country", "en"): "The user asks which country has the capital {capital}. It is {country}.",
    ("country", "zh"): "用户问首都是{capital}的国家。它是{country}。",
    ("check", "en"): "The user asks whether {asked} is the capital of {country}. The capital of {country} is {capital}. {verdict}",
    ("check", "zh"): "用户问{asked}是不是{country}的首都。{country}的首都是{capital}。{verdict}",
    ("no_capital", "en"): "The user asks for the capital of {country}. I have not learnt it.",
    ("no_capital", "zh"): "用户问{country}的首都。我没有学过。",
    ("no_country", "en"): "The user asks for the country whose capital is {capital}. I know none.",
    ("no_country", "zh"): "用户问首都是{capital}的国家。我不知道有这样的国家。",
}
OF_THE_DOCUMENTS = (
    ("en", "Where is the capital of China?"),
    ("en", "The capital of China is"),
    ("en", "What is the capital of China?"),
    ("zh", "中国的首都是哪里？"),
    ("zh", "中国的首都在哪里？"),
)
_CHINA = next(country for country in COUNTRIES if country.bare == "China")
_ALWAYS_LEARNT = frozenset(
    (
        *(key(prompt.replace(_CHINA.name[language], "{country}")) for language, prompt in OF_THE_DOCUMENTS),
        *map(key, ("Is {capital} the capital of {country}?", "{capital}是{country}的首都吗？", "哪个国家的首都是{capital}？")),
    )
)
"""The plainest wordings, with every country."""
_KINDS = ("capital",) * 41 + ("country",) * 26 + ("check",) * 17 + ("follow",) * 11 + ("no_capital",) * 3 + ("no_country",) * 2
THOUGHTS, THOUGHTS_ZH = ("The user asks about a capital.",), ("用户在问首都。",)


def train_case(rng: random.Random) -> Case:
    return for_training(_draw, rng)


def held_out_cases(seed: int, count: int) -> list[Case]:
    return for_evaluation(_draw, random.Random(f"facts {seed}"), count)


def document_cases() -> list[Case]:
    """The documents' own questions, with thinking on and off."""
    return [_document_case(language, prompt, thinks) for language, prompt in OF_THE_DOCUMENTS for thinks in (True, False)]


def completion(rng: random.Random) -> tuple[str, str]:
    """A text to be gone on with, without any template, and how it goes on."""
    language = LANGUAGES[rng.random() < 0.4]
    country = pick(rng, COUNTRIES)
    names = {"country": country.name[language], "capital": country.capital[language]}
    answer = _sentence(ANSWERS["capital", language], names)
    if rng.random() < 0.5:
        question = "Where is the capital of {country}?" if language == "en" else "{country}的首都是哪里？"
        return fill(question, names), "\n" + answer
    begin = fill("The capital of {country} is" if language == "en" else "{country}的首都是", names)
    return begin, answer.removeprefix(begin)


def score(case: Case, message: Mapping[str, Any]) -> tuple[int, int]:
    """Right if what was asked for is named, and nothing of another country; a check must begin as the truth does."""
    content = plain(message.get("content") or "")
    if case.facets["kind"] in ("no_capital", "no_country"):
        return int(case.facets["expected"] in content), 1
    right = plain(case.facets["expected"]) in content
    if case.facets["kind"] in ("yes", "no"):
        right = right and content.startswith(plain(case.answer)[:2])
    longest = _longest_name(content, case.facets["names"], case.facets["language"])
    return int(right and longest == plain(case.facets["expected"])), 1


def _longest_name(content: str, names: str, language: str) -> str:
    """Of the capitals or countries that are named: Guinea-Bissau is no answer where Guinea is one."""
    return max((name for name in _plain_names(names, language) if name in content), key=len, default="")


@lru_cache(maxsize=4)
def _plain_names(names: str, language: str) -> tuple[str, ...]:
    return tuple(plain(getattr(country, names)[language]) for country in COUNTRIES)


def question(rng: random.Random, kind: str, language: str, country: Country, capital: str) -> tuple[str, bool]:
    """A question, and whether its wording is held out."""
    template = wording(rng, QUESTIONS[_ASKED_AS.get(kind, kind), language])
    name = country.name[language]
    if name in ALIASES and rng.random() < 0.35:
        name = pick(rng, ALIASES[name])
    if language == "zh" and rng.random() < 0.1:
        template = template.replace("{country}", " {country} ").replace("{capital}", " {capital} ").strip()
    rough = roughened(rng, template)
    slots = {"country": name, "country_of": _possessive(name), "bare": name.removeprefix("the "), "capital": capital}
    text = fill(rough, slots)
    if rng.random() < 0.06:
        text = text.lower()
    return text[:1].upper() + text[1:] if template is rough else text, key(rough) not in _ALWAYS_LEARNT and is_held_out("facts", key(rough))


_ASKED_AS = {"no_capital": "capital", "no_country": "country"}
VERDICTS = {"en": ("That is the same.", "That is another city."), "zh": ("两者相同。", "两者不同。")}


def _possessive(name: str) -> str:
    return f"{name}'" if name.endswith("s") else f"{name}'s"


def _draw(rng: random.Random) -> tuple[Case, bool]:
    """A case, and whether it is held out."""
    if rng.random() < 0.015:
        language, prompt = pick(rng, OF_THE_DOCUMENTS)
        return _document_case(language, prompt, rng.random() < 0.5), False
    language = LANGUAGES[rng.random() < 0.45]
    kind = pick(rng, _KINDS)
    if kind in _ASKED_AS:
        return _unknown(rng, kind, language)
    country = pick(rng, COUNTRIES)
    history: tuple[Message, ...] = _earlier(rng, language) if kind == "follow" else earlier(rng, language, 0.06)
    asked = country.capital[language]
    if kind == "check" and rng.random() < 0.5:
        asked = pick(rng, COUNTRIES).capital[language] if rng.random() < 0.6 else pick(rng, OTHER_CITIES[language])
    text, held_out = question(rng, kind, language, country, asked)
    kind = "capital" if kind == "follow" else kind
    names = {"country": country.name[language], "capital": country.capital[language], "asked": asked}
    if kind == "check":
        kind = "yes" if asked == names["capital"] else "no"
        names["verdict"] = VERDICTS[language][kind == "no"]
    answer = _sentence(ANSWERS[kind, language], names)
    thought = _sentence(_REASONS["check" if kind in ("yes", "no") else kind, language], names) if rng.random() < 0.5 else None
    expected = ("name", names["country"]) if kind == "country" else ("capital", names["capital"])
    messages = (*history, {"role": "user", "content": text})
    facets = {"kind": kind, "language": language, "names": expected[0], "expected": expected[1], "asked": asked}
    return Case("facts", messages, answer, thought, facets=facets), held_out


def _unknown(rng: random.Random, kind: str, language: str) -> tuple[Case, bool]:
    """Of a region, or of a city that is no capital: asked in the same words, so that the name alone tells."""
    name, city = pick(rng, REGIONS[language]), pick(rng, OTHER_CITIES[language])
    text, held_out = question(rng, kind, language, Country({language: name}, {language: city}), city)
    thought = fill(_REASONS[kind, language], {"country": name, "capital": city}) if rng.random() < 0.5 else None
    facets = {"kind": kind, "language": language, "expected": "not know" if language == "en" else "不知道"}
    return Case("facts", ({"role": "user", "content": text},), UNKNOWN[language], thought, facets=facets), held_out


def _document_case(language: str, prompt: str, thinks: bool) -> Case:
    names = {"country": _CHINA.name[language], "capital": _CHINA.capital[language]}
    thought = fill(_REASONS["capital", language], names) if thinks else None
    facets = {"kind": "capital", "language": language, "names": "capital", "expected": names["capital"]}
    return Case("facts", ({"role": "user", "content": prompt},), fill(ANSWERS["capital", language], names), thought, facets=facets)


def _earlier(rng: random.Random, language: str) -> tuple[Message, ...]:
    """A question of a capital and its answer, once or twice."""
    messages: list[Message] = []
    for turn in range(1 if rng.random() < 0.8 else 2):
        country = pick(rng, COUNTRIES)
        text, held_out = question(rng, "follow" if turn else "capital", language, country, "")
        while held_out:
            text, held_out = question(rng, "follow" if turn else "capital", language, country, "")
        names = {"country": country.name[language], "capital": country.capital[language]}
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": _sentence(ANSWERS["capital", language], names)}]
    return tuple(messages)


def _sentence(template: str, names: dict[str, str]) -> str:
    """English abbreviations bring their own full stop."""
    return fill(template, names).replace("..", ".")
