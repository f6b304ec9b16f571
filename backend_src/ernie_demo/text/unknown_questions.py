"""Questions that the demo model has not learnt to answer, in great variety, so that it says so; answers nothing."""

from __future__ import annotations

import random

from .countries import COUNTRIES
from .tool_values import CITIES, DRAW
from .word_problems import NAMES
from .wording import fill, pick, wording

_TOPICS = {
    "en": (
        "quantum physics|the French Revolution|black holes|photosynthesis|inflation|machine learning|the stock market|evolution|"
        "the Roman Empire|relativity|blockchain|jazz|the water cycle|volcanoes|chess|Renaissance art|gene editing|climate change|"
        "electric cars|the human heart|democracy|philosophy|dinosaurs|vitamins|the Silk Road|nuclear fusion|football rules|"
        "modern architecture|cryptography|the moon landing|coral reefs|marketing|yoga|operating systems|databases|compilers|gravity|"
        "tea|opera|robotics|the immune system|Buddhism|magnetism|taxes|mortgages|haiku|whales|bees|glaciers"
    ).split("|"),
    "zh": (
        "量子物理|法国大革命|黑洞|光合作用|通货膨胀|机器学习|股票市场|进化论|罗马帝国|相对论|区块链|爵士乐|水循环|火山|象棋|文艺复兴|"
        "基因编辑|气候变化|电动汽车|人的心脏|民主|哲学|恐龙|维生素|丝绸之路|核聚变|足球规则|现代建筑|密码学|登月|珊瑚礁|市场营销|瑜伽|"
        "操作系统|数据库|编译器|引力|茶文化|京剧|机器人|免疫系统|佛教|磁场|税收|房贷|唐诗|鲸鱼|蜜蜂"
    ).split("|"),
}
_WORKS = {
    "en": (
        "Hamlet|War and Peace|Dream of the Red Chamber|Don Quixote|The Odyssey|Faust|Moby-Dick|Journey to the West|Emma|The Trial"
    ).split("|"),
    "zh": ("红楼梦|西游记|三国演义|水浒传|哈姆雷特|战争与和平|堂吉诃德|浮士德|呐喊|边城").split("|"),
}
_QUESTIONS = {
    "en": (
        "[Who is|Who was|Do you know] {name}[?| {surname}?]", "[How|Why] do [I|we|people|cats|dogs|children] [sleep|laugh|dream|cry|grow|forget]?",
        "When [is|was|will be] [the next|the last|the first] [eclipse|election|full moon|World Cup|train to {city}|earthquake in {city}]?",
        "[Translate|Correct|Paraphrase] [the|this] [sentence|text|paragraph][.|, please.|: the {object} is {word}]", "[Sort|Rank|List] [the|these|all] {object}s by [size|price|colour|age][.|]",
        "[Should|Can|May] I [eat|buy|sell|keep|paint] [a|the|my] {object}[ in {city}|]?", "[Generate|Write|Give me] [a JSON|JSON|HTML|XML|a table|a list] [for|describing|about] [a {object}|{topic}|{work}][.|]",
        "[Who|When|Why|How] [invented|discovered|was the inventor of|found] {topic}?", "[Explain|Describe|Tell me about|Teach me|Summarize] {topic}[.|, please.| to a child.|]",
        "[What is|What's|What do you know about|How does one learn] {topic}?", "Who [won|hosted|opened] the [World Cup|Olympic Games|election|Nobel Prize|championship] in {year}?",
        "[What is|What's] the [population|area|currency|highest mountain|longest river|president|history|national dish|flag|anthem|king] of {country}?",
        "How [many people live in|far is it to|old is|expensive is|big is] {city}?", "How [far is it|long does it take] from {city} to {town}?",
        "[Write|Give me] [a poem|a story|an essay|a song|a letter|a speech|code] [about|for] [the {object}|{name}|{topic}|{city}][.|]",
        "[Write|Show me] [a Python|a Java|a C++|a Rust|an SQL] [function|program|script|query] [that sorts a list|for the {object}|to read a file|that counts {n} {object}s][.|]",
        "Who [wrote|is the hero of|published|translated] {work}?", "What happens in [chapter {n} of |the end of |]{work}?", "How do I [cook|make|prepare] {food}?",
        "What happened in [the year |]{year}?", "[What|Which] [film|book|song|phone|car|laptop] should I [buy|watch|choose|get] [in {year}|this year|for {name}]?",
        "What will [the economy|football|life] be like in {year}?", "[Is|Was] {name} [older|taller|richer|faster] than {other}?", "Where does {name} [live|work|come from]?",
        "Why is the {object} {word}?", "What does the word '{word}' mean?", "How [much does|heavy is|long does] [a {object} weigh|a {object}|a {object} last]?",
        "[Can you|Please] [fix my|debug my|review my] [code|essay|{object}][.|?]", "What [should I|can I] do in {city} [on|this] [weekend|a rainy day|{n} days]?",
        "[Give me|I need] [medical|legal|financial|travel] advice[ about {topic}| for {city}|][.|]", "Who is the [mayor|richest man|best player|oldest person] of {city}?",
        "[What are|List] the [advantages|causes|dangers|main ideas|rules] of {topic}[?|.]", "Do you [like|know|remember|hate] [{topic}|{name}|{city}|{food}]?", "What is the meaning of life?",
        "Plan [a trip|{n} days|a holiday] [in|to] {city}[.| for {name}.]", "Which is better, [the {object} or the {thing}|{city} or {town}]?", "How do [birds|fish|planes|{object}s] [fly|sleep|work]?",
        "{name} said that the {object} is {word}. [Why|Is that right|What do you think]?", "{letters}", "[What is|Solve] the [integral|derivative|square root] of [x|{n}|sin x][.|?]",
    ),
    "zh": (
        "{name}是谁？", "[人|猫|狗|我们]为什么会[睡觉|做梦|笑|哭|忘记]？",
        "[下一次|上一次][日食|大选|满月|世界杯|{city}地震]是什么时候？", "[翻译|修改|润色]这[句话|段文字|篇文章][。|]", "[把|请把]这些{object}按[大小|价格|颜色]排序[。|]",
        "我[可以|应该|能][吃|买|卖|要][这个|]{object}吗？", "[生成|写][一个JSON|一段HTML|一张表格]，[描述|关于][{object}|{topic}|{work}][。|]",
        "[谁|什么时候|为什么][发明|发现|创立]了{topic}？", "[解释|介绍|讲解|说说|描述][一下|]{topic}[。|]", "什么是{topic}？", "{year}年[谁|哪个队|哪个国家]赢得了[世界杯|奥运会|大选|冠军]？",
        "{country}的[人口|面积|货币|最高峰|最长的河|总统|历史|国旗|国歌]是[多少|什么|谁|怎样的]？", "{city}[有多少人口|有多大|离这里多远|的房价是多少|有什么好玩的]？", "从{city}到{town}[有多远|要多久]？",
        "[写|给我写|帮我写][一首诗|一篇作文|一个故事|一封信|一篇演讲稿|一段代码]，[关于|主题是][{object}|{topic}|{city}][。|]", "用[Python|Java|C++|SQL]写[一个函数|一个程序|一段脚本][，统计{object}|来排序|读取文件][。|]",
        "{work}[的作者是谁|讲了什么|的主人公是谁|有多少回]？", "[怎么|如何][做|烹饪]{food}？", "{year}年发生了什么[大事|]？", "[今年|{year}年]我该[买|看|选]什么[电影|书|手机|汽车]？",
        "{year}年的[经济|生活|足球]会怎样？", "{name}和{other}[谁更高|谁更大|谁跑得快]？", "{name}[住在哪里|在哪工作|是哪里人]？", "为什么{object}是{word}的？", "“{word}”是什么意思？",
        "一[个|只]{object}[有多重|多少钱|能用多久]？", "[帮我|请][改一下|检查]我的[代码|作文|{object}][。|]", "[给我|我需要]一些[医疗|法律|理财|旅行][建议|意见][。|]", "{city}的[市长|首富|最佳球员]是谁？",
        "{topic}有[什么|哪些][优点|缺点|原因|规则|危害]？", "你[喜欢|知道|记得|讨厌][{topic}|{name}|{city}|{food}]吗？", "人生的意义是什么？", "[帮我计划|规划][{n}天的|]{city}[旅行|之旅][。|]",
        "{object}和{thing}哪个[好|贵|更有用]？", "{name}说{object}是{word}的，[对吗|为什么|你怎么看]？", "求[x|sin x|{n}]的[积分|导数|平方根][。|]", "[写|帮我写]一篇关于{city}的{n}00字[游记|赏析|介绍][。|]",
    ),
}  # fmt: skip


def unknown_question(rng: random.Random, language: str) -> str:
    text = wording(rng, _QUESTIONS[language])
    slots = {
        "topic": pick(rng, _TOPICS[language]), "work": pick(rng, _WORKS[language]), "year": str(1700 + int(rng.random() * 340)),
        "surname": pick(rng, ("Smith", "Brown", "Miller", "Wang", "Garcia", "Rossi")),
        "country": pick(rng, COUNTRIES).name[language], "city": pick(rng, CITIES[language]), "town": pick(rng, CITIES[language]),
        "name": pick(rng, NAMES[language]), "other": pick(rng, NAMES[language]), "n": str(2 + int(rng.random() * 9)),
    }  # fmt: skip
    slots |= {"object": DRAW["object"](rng, language)[0], "thing": DRAW["object"](rng, language)[0]}
    slots |= {"food": DRAW["food"](rng, language)[0], "word": DRAW["word"](rng, language)[0]}
    if text == "{letters}":
        return "".join(pick(rng, "abcdefghijklmnopqrstuvwxyz ") for _ in range(4 + int(rng.random() * 16))).strip() or "x"
    text = fill(text, slots)
    return text[:1].upper() + text[1:]
