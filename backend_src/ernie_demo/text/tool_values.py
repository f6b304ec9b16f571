"""What the arguments of the demo model's functions may be: cities, people, times, texts, …, in the question's language; knows no function.

A value is drawn as it is said in the question and as it stands in the call; mostly they are the same, to be copied.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from .countries import COUNTRIES
from .word_problems import NAMES
from .wording import pick, wording

Value = tuple[str, Any]
"""As said, as called."""

OTHER_CITIES = {
    "en": (
        "Shanghai|Guangzhou|Shenzhen|Chengdu|Hangzhou|Nanjing|Wuhan|Xi'an|Chongqing|Tianjin|Suzhou|Qingdao|Dalian|Xiamen|Kunming|"
        "Harbin|New York|Los Angeles|Chicago|San Francisco|Seattle|Boston|Houston|Miami|Denver|Toronto|Vancouver|Montreal|Sydney|"
        "Melbourne|Perth|Osaka|Kyoto|Mumbai|Munich|Hamburg|Frankfurt|Cologne|Milan|Venice|Florence|Naples|Barcelona|Seville|Valencia|"
        "Lyon|Marseille|Nice|Geneva|Zurich|Manchester|Liverpool|Edinburgh|Glasgow|Rio de Janeiro|São Paulo|Istanbul|Dubai|Hong Kong|"
        "Singapore|Busan|San Francisco, CA|Cape Town"
    ).split("|"),
    "zh": (
        "上海|广州|深圳|成都|杭州|南京|武汉|西安|重庆|天津|苏州|青岛|大连|厦门|昆明|哈尔滨|长沙|郑州|济南|合肥|福州|南昌|贵阳|兰州|"
        "拉萨|海口|三亚|宁波|无锡|珠海|洛阳|桂林|丽江|纽约|洛杉矶|芝加哥|旧金山|西雅图|波士顿|多伦多|温哥华|悉尼|墨尔本|大阪|京都|"
        "慕尼黑|汉堡|米兰|威尼斯|巴塞罗那|里昂|日内瓦|苏黎世|曼彻斯特|伊斯坦布尔|迪拜|香港|新加坡|釜山|孟买"
    ).split("|"),
}
CITIES = {language: (*(c.capital[language] for c in COUNTRIES), *OTHER_CITIES[language] * 3) for language in ("en", "zh")}
CURRENCIES = (
    ("USD", "US dollars", "美元"), ("EUR", "euros", "欧元"), ("CNY", "yuan", "人民币"), ("JPY", "yen", "日元"), ("GBP", "pounds", "英镑"),
    ("KRW", "won", "韩元"), ("INR", "rupees", "卢比"), ("CHF", "Swiss francs", "瑞士法郎"), ("CAD", "Canadian dollars", "加元"),
    ("AUD", "Australian dollars", "澳元"), ("SGD", "Singapore dollars", "新加坡元"), ("HKD", "Hong Kong dollars", "港元"),
)  # fmt: skip
_REGIONS = (
    ("left side", "左边", [0, 0, 500, 1000]), ("right side", "右边", [500, 0, 1000, 1000]), ("top", "上面", [0, 0, 1000, 500]),
    ("bottom", "下面", [0, 500, 1000, 1000]), ("centre", "中间", [250, 250, 750, 750]), ("top left corner", "左上角", [0, 0, 500, 500]),
    ("top right corner", "右上角", [500, 0, 1000, 500]), ("bottom left corner", "左下角", [0, 500, 500, 1000]),
    ("bottom right corner", "右下角", [500, 500, 1000, 1000]), ("whole picture", "整张图", [0, 0, 1000, 1000]),
)  # fmt: skip
"""Of a picture, with boxes in thousandths: x and y of the top left corner, then of the bottom right one."""
_WORDS = {
    "en": (
        "red|blue|green|black|white|silver|wooden|small|large|round|old|new|fresh|warm|cold|soft|quiet|bright|dark|heavy|light|sweet|"
        "dry|clean|fast|slow|early|late|simple|modern|classic|golden|plain|lucky|happy|gentle|brave|hidden|distant|open"
    ).split("|"),
    "zh": (
        "红色|蓝色|绿色|黑色|白色|银色|木制|小号|大号|圆形|旧的|新的|新鲜|温暖|冰凉|柔软|安静|明亮|深色|简单|现代|经典|金色|幸运|快乐|"
        "温柔|勇敢|遥远"
    ).split("|"),
}
_OBJECTS = {
    "en": (
        "old lady|empty table|older couple|table|dog|cat|red car|bicycle|tree|clock|sign|lamp|book|window|door|cup|bird|boy|girl|man|"
        "woman|hat|chair|boat|house|bus|bag|phone|bottle|flower|bridge|statue|number plate|menu|map|label|logo|train|horse|umbrella|"
        "picture frame|vase"
    ).split("|"),
    "zh": (
        "老太太|桌子|小狗|小猫|红色汽车|自行车|树|时钟|招牌|灯|书|窗户|门|杯子|小鸟|男孩|女孩|男人|女人|帽子|椅子|船|房子|公交车|包|"
        "手机|瓶子|花|桥|雕像|车牌|菜单|地图"
    ).split("|"),
}
_TEXTS = {
    "en": (
        "[I will|I'll] be [late|there soon|home at {time}|ten minutes late|back on {day}]", "[the meeting|the party|lunch|dinner] [starts|is] at {time}",
        "[see you|call me|write to me] [tomorrow|tonight|on {day}|at {time}]", "happy [birthday|new year|holidays]", "[thank you|thanks] for the {word} {object}",
        "[please |]bring the {word} {object}", "[I love|I found|I miss] the {object}", "[buy|get] [milk|bread|eggs|{n} {word} candles]",
        "the {object} is {word}", "[good morning|good night|good luck], {name}", "{name} is waiting [at the {object}|in {city}]",
    ),
    "zh": (
        "我[会晚点到|马上到|{time}到家|迟到十分钟|{day}回来]", "[会议|聚会|午饭|晚饭]{time}开始", "[明天|今晚|{day}]见", "[生日|新年|节日]快乐", "谢谢你的{object}",
        "请带上{object}", "我[喜欢|找到了|想念]那个{object}", "买[牛奶|面包|鸡蛋|{n}根蜡烛]", "{object}是{word}的", "[早上好|晚安|祝你好运]，{name}", "{name}在{city}等你",
    ),
}  # fmt: skip
_DAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "tomorrow", "today"),
    "zh": ("周一", "周二", "周三", "周四", "周五", "周六", "周日", "明天", "今天", "后天"),
}
_LANGUAGES = {
    "en": ("English", "Chinese", "French", "German", "Spanish", "Italian", "Japanese", "Korean", "Russian", "Arabic", "Portuguese", "Thai"),
    "zh": ("英语", "中文", "法语", "德语", "西班牙语", "意大利语", "日语", "韩语", "俄语", "阿拉伯语", "葡萄牙语", "泰语"),
}
_FOODS = {
    "en": (
        "pizza",
        "sushi",
        "noodles",
        "Thai food",
        "vegetarian food",
        "Chinese food",
        "Italian food",
        "burgers",
        "seafood",
        "hot pot",
        "tacos",
    ),
    "zh": ("披萨", "寿司", "面条", "泰国菜", "素食", "川菜", "意大利菜", "汉堡", "海鲜", "火锅", "烤鸭", "饺子"),
}
_SONGS = {
    "en": (
        "Yesterday",
        "Blue Moon",
        "Summer Rain",
        "Golden Days",
        "River Song",
        "Moonlight",
        "Silent Night",
        "Hello Again",
        "The Long Road",
        "Green Hills",
    ),
    "zh": ("茉莉花", "月光", "夏天的雨", "好日子", "晚安曲", "小河", "远方", "星空", "彩虹", "故乡"),
}
_TIMEZONES = (
    "Asia/Shanghai",
    "Europe/London",
    "Europe/Paris",
    "America/New_York",
    "Asia/Tokyo",
    "Australia/Sydney",
    "America/Chicago",
    "UTC",
)


_ROOMS = {
    "en": ("kitchen", "bedroom", "living room", "bathroom", "hall", "office", "garage", "garden", "cellar"),
    "zh": ("厨房", "卧室", "客厅", "浴室", "走廊", "书房", "车库", "花园"),
}
_TICKERS = ("AAPL", "BIDU", "NVDA", "MSFT", "GOOG", "TSLA", "AMZN", "META", "BABA", "IBM", "INTC", "AMD", "ORCL", "SAP", "NFLX")
_TRANSLATED = {
    "weather": (
        ("sunny", "晴"),
        ("cloudy", "多云"),
        ("rainy", "有雨"),
        ("snowy", "有雪"),
        ("windy", "有风"),
        ("foggy", "有雾"),
        ("clear", "晴朗"),
        ("stormy", "有暴风雨"),
    ),
    "status": (
        ("shipped", "已发货"),
        ("delivered", "已送达"),
        ("on its way", "在路上"),
        ("cancelled", "已取消"),
        ("being packed", "正在打包"),
    ),
    "airline": (("Air China", "国航"), ("Lufthansa", "汉莎航空"), ("KLM", "荷兰皇家航空"), ("Air France", "法航"), ("Qantas", "澳航")),
    "restaurant": (
        ("Golden Dragon", "金龙饭店"),
        ("Blue Lotus", "蓝莲花"),
        ("Old Town Kitchen", "老城厨房"),
        ("River View", "江景餐厅"),
        ("Luigi's", "路易吉餐厅"),
    ),
}
"""What functions give back, often in English even where the question is Chinese."""


def _number(rng: random.Random, below: int) -> int:
    return 1 + int(rng.random() * below)


def _time(rng: random.Random, language: str) -> Value:
    text = f"{int(rng.random() * 24)}:{pick(rng, ('00', '30', '15', '45', f'{int(rng.random() * 60):02}'))}"
    return text, text


def _date(rng: random.Random, language: str) -> Value:
    if rng.random() < 0.4:
        day = pick(rng, _DAYS[language])
        return day, day
    text = f"{2024 + int(rng.random() * 6)}-{_number(rng, 12):02}-{_number(rng, 28):02}"
    return text, text


def _amount(rng: random.Random, language: str) -> Value:
    value: int | float = _number(rng, 1000) if rng.random() < 0.8 else _number(rng, 999) / 10
    return str(value), value


def _count(rng: random.Random, language: str) -> Value:
    value = _number(rng, 12 if rng.random() < 0.5 else 90)
    return str(value), value


def _currency(rng: random.Random, language: str) -> Value:
    code, english, chinese = pick(rng, CURRENCIES)
    return pick(rng, (code, english if language == "en" else chinese)), code


def _code(rng: random.Random, language: str) -> Value:
    """An order's or a parcel's number: nothing that could be known by heart."""
    letters = "".join(pick(rng, "ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(_number(rng, 3)))
    text = f"{letters}{pick(rng, ('-', '', '_'))}{_number(rng, 99999)}"
    return text, text


def _box(rng: random.Random, language: str) -> Value:
    if rng.random() < 0.25:
        x, y = int(rng.random() * 700), int(rng.random() * 700)
        box = [x, y, x + 50 + int(rng.random() * 250), y + 50 + int(rng.random() * 250)]
        return f"{'region' if language == 'en' else '区域'} {box}", box
    english, chinese, box = pick(rng, _REGIONS)
    return english if language == "en" else chinese, box


def _address(rng: random.Random, language: str) -> Value:
    text = f"{pick(rng, NAMES['en']).lower().replace(' ', '.')}@{pick(rng, ('example.com', 'mail.example.org', 'work.example.net'))}"
    return text, text


def _text(rng: random.Random, language: str) -> Value:
    text = wording(rng, _TEXTS[language])
    for slot, draw in (("time", _time), ("name", _of(NAMES)), ("city", _of(CITIES)), ("object", _of(_OBJECTS)), ("word", _of(_WORDS))):
        if "{" + slot + "}" in text:
            text = text.replace("{" + slot + "}", draw(rng, language)[0])
    text = text.replace("{day}", pick(rng, _DAYS[language])).replace("{n}", str(_number(rng, 20)))
    return text, text


def _of(pool: dict[str, Any]) -> Callable[[random.Random, str], Value]:
    def draw(rng: random.Random, language: str) -> Value:
        value = pick(rng, pool[language])
        return value, value

    return draw


def _timezone(rng: random.Random, language: str) -> Value:
    value = pick(rng, _TIMEZONES)
    return value, value


def _translated(kind: str) -> Callable[[random.Random, str], Value]:
    def draw(rng: random.Random, language: str) -> Value:
        english, chinese = pick(rng, _TRANSLATED[kind])
        return (english, english) if language == "en" else (chinese, chinese if rng.random() < 0.5 else english)

    return draw


def _temperature(rng: random.Random, language: str) -> Value:
    value = int(rng.random() * 60) - 15
    return str(value), value


def _ticker(rng: random.Random, language: str) -> Value:
    value = (
        pick(rng, _TICKERS) if rng.random() < 0.5 else "".join(pick(rng, "ABCDEFGHJKLMNOPRSTUVWXYZ") for _ in range(2 + _number(rng, 2)))
    )
    return value, value


DRAW: dict[str, Callable[[random.Random, str], Value]] = {
    "city": _of(CITIES), "person": _of(NAMES), "time": _time, "date": _date, "amount": _amount, "count": _count, "currency": _currency,
    "code": _code, "box": _box, "address": _address, "text": _text, "language": _of(_LANGUAGES), "food": _of(_FOODS), "song": _of(_SONGS),
    "word": _of(_WORDS), "object": _of(_OBJECTS), "timezone": _timezone, "room": _of(_ROOMS),
    "ticker": _ticker, "temperature": _temperature, **{kind: _translated(kind) for kind in _TRANSLATED},
}  # fmt: skip
SCHEMAS: dict[str, dict[str, Any]] = {
    "amount": {"type": "number"},
    "count": {"type": "integer"},
    "box": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
}
"""Of kinds that are not strings."""
