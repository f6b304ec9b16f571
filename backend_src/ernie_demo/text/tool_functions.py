"""The functions that the demo model learns to call: what each may be named, takes, is asked for with, and gives back; makes no case.

Names, parameters and descriptions come in several variants, so that the schema of a request must be read and cannot be known by heart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Said = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Parameter:
    slot: str
    """Its place in questions and answers."""
    names: tuple[str, ...]
    kind: str
    """Of `tool_values.DRAW`, or `choice`."""
    about: dict[str, str]
    """Description, by language."""
    required: bool = True
    choices: tuple[tuple[str, ...], ...] = ()
    """The variants of an enumeration."""
    said: Said = field(default_factory=dict)
    """How a question says it. For a choice: one wording a value; else: a template with {value}. Empty: the value alone."""
    may_be_unsaid: bool = False
    """Left out of a call if it is not required; else the first choice holds."""


@dataclass(frozen=True)
class Function:
    names: tuple[str, ...]
    about: Said
    parameters: tuple[Parameter, ...]
    questions: Said
    result: tuple[tuple[str, str], ...] = ()
    """(field, kind) of what it gives back; none: it says that it is done."""
    answer: dict[str, str] = field(default_factory=dict)
    """What to say of the result, with slots of parameters and fields."""
    rival_of: tuple[str, str] | None = None
    """Of an invented one: its verb and its thing."""
    like: str = ""
    """First name of a function that does the same."""

    @property
    def family(self) -> str:
        """Functions of one family never stand beside one another in a request."""
        return self.like or self.names[0]


def _about(en: str, zh: str) -> dict[str, str]:
    return {"en": en, "zh": zh}


def _place(slot: str = "place", *names: str) -> Parameter:
    return Parameter(
        slot, names or ("location", "city", "place", "city_name"), "city", _about("City name, e.g. Beijing", "城市名，如：北京")
    )


_UNIT = Parameter(
    "unit", ("unit", "units", "temperature_unit"), "choice", _about("c = Celsius, f = Fahrenheit", "c = 摄氏度，f = 华氏度"),
    may_be_unsaid=True, choices=(("c", "f"), ("celsius", "fahrenheit"), ("C", "F"), ("Celsius", "Fahrenheit")),
    said={"en": (" in [celsius|Celsius|degrees Celsius]", " in [fahrenheit|Fahrenheit|degrees Fahrenheit]"), "zh": ("，用摄氏度", "，用华氏度")},
)  # fmt: skip

FUNCTIONS: tuple[Function, ...] = (
    Function(
        ("get_weather", "get_weather", "get_current_weather", "weather", "weather_lookup", "query_weather", "fetchWeather", "getWeather"),
        {"en": ("Determine weather in my location", "Get the current weather in a given location", "Weather of a city", "Look up the weather"),
         "zh": ("获取指定地点的当前天气", "查询天气", "查询某个城市的天气")},
        (_place(), _UNIT),
        {"en": ("[What's|What is|How is|How's] the weather [like |]in {place}[ today| now| right now|]{unit}?",
                "[Get|Show me|Tell me|Check] the [current |]weather in {place}{unit}[.|]",
                "[Hello, |Hi, |]what's the weather in {place}{unit}?",
                "[Is it|Will it be] [cold|warm|hot|raining|sunny] in {place}[ today|]{unit}?", "[Temperature|Weather] in {place}{unit}[?|]",
                "[What's|What is] the temperature in {place}{unit}?", "I [need|want] the weather for {place}{unit}."),
         "zh": ("{place}[今天|现在|]天气[怎么样|如何|怎样]{unit}？", "[查一下|帮我查|查询|告诉我]{place}的[天气|气温]{unit}[。|]",
                "{place}[今天|现在|][多少度|冷吗|热吗|下雨吗]{unit}？", "[请问|]{place}的天气[如何|怎么样]{unit}？")},
        (("temperature", "temperature"), ("weather", "weather")),
        {"en": "The weather in {place} is {weather}, {temperature} °{sign}.", "zh": "{place}的天气是{weather}，{temperature}°{sign}。"},
    ),
    Function(
        ("weather", "get_weather", "get_weather", "get_current_weather", "city_weather", "weather_in"),
        {"en": ("Get the weather of a city", "Get the current weather in a given location", "Weather of a city", "Get the weather"),
         "zh": ("获取指定地点的当前天气", "查询天气", "查询某个城市的天气")},
        (_place(),),
        {"en": ("[What's|What is|How is|How's] the weather [like |]in {place}[ today| now| right now|]?",
                "[Get|Show me|Tell me|Check] the [current |]weather in {place}[.|]",
                "[Hello, |Hi, |]what's the weather in {place}?",
                "[Is it|Will it be] [cold|warm|hot|raining|sunny] in {place}[ today|]?", "I [need|want] the weather for {place}."),
         "zh": ("{place}[今天|现在|]天气[怎么样|如何|怎样]？", "[查一下|帮我查|查询|告诉我]{place}的[天气|气温][。|]",
                "{place}[今天|现在|][多少度|冷吗|热吗|下雨吗]？", "[请问|]{place}的天气[如何|怎么样]？")},
        (("temperature", "temperature"), ("weather", "weather")),
        {"en": "The weather in {place} is {weather}, {temperature} °C.", "zh": "{place}的天气是{weather}，{temperature}°C。"},
        like="get_weather",
    ),
    Function(
        ("get_time", "get_current_time", "current_time", "local_time", "world_clock", "timeIn"),
        {"en": ("Get the local time of a city", "What time it is in a city", "Current local time"), "zh": ("查询城市的当地时间", "获取当前时间")},
        (_place(),),
        {"en": ("What time is it [now |]in {place}?", "[What's|Tell me|Get] the [local |current |]time in {place}[.|?|]", "Time in {place}[?|]"),
         "zh": ("{place}[现在|]几点[了|]？", "[查一下|告诉我]{place}的[当地|]时间[。|]", "现在{place}是几点？")},
        (("time", "time"),),
        {"en": "It is {time} in {place}.", "zh": "{place}现在是{time}。"},
    ),
    Function(
        ("get_current_date", "current_date", "date_in_timezone"),
        {"en": ("Get current date and time for given timezone", "Today's date in a time zone"), "zh": ("获取指定时区的当前日期",)},
        (Parameter("zone", ("timezone", "time_zone", "tz"), "timezone", _about("Timezone, e.g.: Asia/Shanghai", "时区，如：Asia/Shanghai")),),
        {"en": ("[What's|What is] [the date|today's date] in [the time zone |timezone |]{zone}?", "[Get|Tell me] the [current |]date for {zone}[.|]"),
         "zh": ("{zone}时区[今天是几号|现在的日期是什么]？", "[查询|告诉我]时区{zone}的日期[。|]")},
        (("date", "date"),),
        {"en": "The date in {zone} is {date}.", "zh": "{zone}的日期是{date}。"},
    ),
    Function(
        ("convert_currency", "currency_converter", "exchange", "exchange_money", "convertCurrency"),
        {"en": ("Convert an amount of money", "Convert between currencies", "Currency conversion"), "zh": ("货币换算", "按当前汇率换算货币")},
        (Parameter("amount", ("amount", "value", "sum"), "amount", _about("How much", "金额")),
         Parameter("source", ("from", "from_currency", "source", "base"), "currency", _about("Currency code, e.g. USD", "货币代码，如USD")),
         Parameter("target", ("to", "to_currency", "target"), "currency", _about("Currency code to convert to", "目标货币代码"))),
        {"en": ("[Convert|Change|Exchange] {amount} {source} [to|into] {target}[.|]", "How [much|many {target}] is {amount} {source}[ in {target}]?",
                "What is {amount} {source} in {target}?", "How many {target} do I get for {amount} {source}?"),
         "zh": ("{amount}{source}[等于|是|能换]多少{target}？", "[把|请把|将]{amount}{source}[换成|兑换成|换算成]{target}[。|]")},
        (("result", "amount"),),
        {"en": "{amount} {source} is {result} {target}.", "zh": "{amount} {source}等于{result} {target}。"},
    ),
    Function(
        ("search_flights", "find_flights", "flight_search", "flights"),
        {"en": ("Search flights between two cities", "Find flights on a date"), "zh": ("搜索两个城市之间的航班", "查询航班")},
        (_place("origin", "origin", "from", "departure", "from_city"), _place("goal", "destination", "to", "arrival", "to_city"),
         Parameter("date", ("date", "day", "departure_date"), "date", _about("Day of departure", "出发日期"))),
        {"en": ("[Find|Search|Show me|I need] [flights|a flight] from {origin} to {goal} [on|for] {date}[.|]",
                "[Are there|What] flights [are there |]from {origin} to {goal} [on|for] {date}?", "I want to fly to {goal} from {origin} on {date}[.|]"),
         "zh": ("[查|搜索|帮我找|查询]{date}从{origin}[到|飞往]{goal}的[航班|机票][。|]", "{date}[有没有|有哪些]从{origin}飞{goal}的航班？")},
        (("price", "count"), ("airline", "airline")),
        {"en": "There is a flight with {airline} for {price}.", "zh": "有一班{airline}的航班，价格{price}。"},
    ),
    Function(
        ("set_alarm", "create_alarm", "alarm", "wake_me"),
        {"en": ("Set an alarm", "Set an alarm clock"), "zh": ("设置闹钟",)},
        (Parameter("time", ("time", "at", "alarm_time"), "time", _about("When it rings", "响铃时间")),),
        {"en": ("[Set|Make|Create|Please set] an alarm [for|at] {time}[.|]", "[Wake me|Please wake me] [up |]at {time}[.|]"),
         "zh": ("[设|定|设置|帮我定][一个|]{time}的闹钟[。|]", "[请|]{time}叫[我起床|醒我][。|]")},
    ),
    Function(
        ("create_reminder", "add_reminder", "remind_me", "reminder"),
        {"en": ("Create a reminder", "Remind the user of something"), "zh": ("创建提醒",)},
        (Parameter("text", ("text", "title", "what", "note"), "text", _about("What to remind of", "提醒内容")),
         Parameter("time", ("time", "when", "at"), "time", _about("When", "时间"))),
        {"en": ("Remind me at {time}: {text}[.|]", "[Set|Create] a reminder [for|at] {time}: {text}[.|]", "At {time} remind me: {text}[.|]"),
         "zh": ("{time}提醒我：{text}[。|]", "[设置|创建]{time}的提醒：{text}[。|]")},
    ),
    Function(
        ("send_message", "send_sms", "text_person", "message", "sendMessage"),
        {"en": ("Send a message to a person", "Send a text message"), "zh": ("给某人发消息", "发送短信")},
        (Parameter("person", ("to", "recipient", "contact", "person", "name"), "person", _about("Who gets it", "收件人")),
         Parameter("text", ("text", "message", "body", "content"), "text", _about("What it says", "消息内容"))),
        {"en": ("[Send|Write|Text] {person} [a message|this]: {text}[.|]", "[Tell|Please tell|Message] {person}: {text}[.|]",
                "Send [a message|a text] to {person}: {text}[.|]", "Send {person} the message '{text}'[.|]"),
         "zh": ("[给|请给|帮我给]{person}发[消息|短信|条消息]：{text}[。|]", "[告诉|通知]{person}：{text}[。|]")},
    ),
    Function(
        ("send_email", "email", "mail_to", "sendEmail"),
        {"en": ("Send an e-mail", "Write an e-mail to an address"), "zh": ("发送电子邮件",)},
        (Parameter("address", ("to", "address", "recipient"), "address", _about("E-mail address", "邮箱地址")),
         Parameter("text", ("subject", "title", "text"), "text", _about("Its subject", "主题"))),
        {"en": ("[Send|Write] an [email|e-mail|mail] to {address} [with the subject|about|saying] {text}[.|]", "Email {address}: {text}[.|]"),
         "zh": ("[给|请给]{address}发[邮件|一封邮件]，[主题是|主题为]{text}[。|]",)},
    ),
    Function(
        ("translate", "translate_text", "translator"),
        {"en": ("Translate a text", "Translate text into a language"), "zh": ("翻译文本",)},
        (Parameter("text", ("text", "source_text", "sentence"), "text", _about("What to translate", "要翻译的文本")),
         Parameter("language", ("language", "target_language", "to"), "language", _about("Target language", "目标语言"))),
        {"en": ("Translate '{text}' [to|into] {language}[.|]", "[How do you say|What is] '{text}' in {language}?", "Say in {language}: {text}[.|]"),
         "zh": ("[把|请把|将]“{text}”翻译成{language}[。|]", "“{text}”用{language}怎么说？")},
    ),
    Function(
        ("search_restaurants", "find_restaurant", "restaurants", "restaurant_search"),
        {"en": ("Find restaurants in a city", "Search places to eat"), "zh": ("搜索餐厅", "查找城市里的餐馆")},
        (Parameter("food", ("cuisine", "food", "kind"), "food", _about("What to eat", "菜系")), _place(),
         Parameter("people", ("people", "guests", "party_size"), "count", _about("How many guests", "人数"), required=False, may_be_unsaid=True,
                   said={"en": (" for {value}[ people| guests|]",), "zh": ("，{value}个人",)})),
        {"en": ("[Find|I want|Where can I eat|Where can I get] {food} in {place}{people}[.|?|]", "[Restaurants with|A restaurant with] {food} in {place}{people}[.|?|]"),
         "zh": ("[找|帮我找|推荐]{place}吃{food}的[餐厅|地方]{people}[。|]", "{place}哪里可以吃{food}{people}？")},
        (("name", "restaurant"),),
        {"en": "I found {name} in {place}.", "zh": "在{place}找到了{name}。"},
    ),
    Function(
        ("book_hotel", "reserve_room", "hotel_booking", "bookHotel"),
        {"en": ("Book a hotel", "Reserve a hotel room"), "zh": ("预订酒店",)},
        (_place(), Parameter("date", ("date", "check_in", "from"), "date", _about("First night", "入住日期")),
         Parameter("nights", ("nights", "number_of_nights", "days"), "count", _about("How many nights", "晚数"))),
        {"en": ("[Book|Reserve|I need] a [hotel|room] in {place} [from|on] {date} for {nights} nights[.|]",
                "[Book|Reserve] {nights} nights in {place} from {date}[.|]"),
         "zh": ("[预订|帮我订|订]{place}的酒店，{date}入住，{nights}晚[。|]", "我要在{place}住{nights}晚，{date}开始[。|]")},
    ),
    Function(
        ("play_music", "play_song", "music", "playTrack"),
        {"en": ("Play a song", "Play music"), "zh": ("播放音乐", "播放歌曲")},
        (Parameter("song", ("song", "title", "track", "query"), "song", _about("Its title", "歌名")),),
        {"en": ("[Play|Please play|Put on|I want to hear] [the song |]{song}[.|]",), "zh": ("[播放|放一首|我想听|来一首]{song}[。|]",)},
    ),
    Function(
        ("set_timer", "start_timer", "countdown", "timer"),
        {"en": ("Start a timer", "Start a countdown in minutes"), "zh": ("开始倒计时", "设置定时器")},
        (Parameter("minutes", ("minutes", "duration", "length"), "count", _about("Minutes", "分钟数")),),
        {"en": ("[Set|Start|Please set] a timer for {minutes} minutes[.|]", "[Start|Give me] a {minutes} minute timer[.|]"),
         "zh": ("[设置|开始|帮我设][一个|]{minutes}分钟的[定时器|倒计时][。|]",)},
    ),
    Function(
        ("track_order", "order_status", "get_order", "find_parcel", "trackOrder"),
        {"en": ("Where an order is", "Get the status of an order", "Track a parcel"), "zh": ("查询订单状态", "跟踪包裹")},
        (Parameter("code", ("order_id", "order", "id", "number", "code"), "code", _about("The order's number", "订单号")),),
        {"en": ("Where is [my order|order|my parcel] {code}?", "[Track|Check|What is the status of] [order|my order|parcel] {code}[.|?|]"),
         "zh": ("[查一下|查询|跟踪]订单{code}[。|的状态。|]", "[我的订单|包裹]{code}[到哪了|在哪里]？")},
        (("status", "status"),),
        {"en": "Order {code} is {status}.", "zh": "订单{code}{status}。"},
    ),
    Function(
        ("switch_light", "set_light", "light", "control_light"),
        {"en": ("Switch a light", "Turn a light on or off"), "zh": ("开关灯",)},
        (Parameter("room", ("room", "where", "area"), "room", _about("Which room", "房间")),
         Parameter("state", ("state", "action", "to"), "choice", _about("What to do", "开或关"), choices=(("on", "off"), ("on", "off"), ("ON", "OFF")),
                   said={"en": ("on", "off"), "zh": ("打开", "关掉")})),
        {"en": ("[Turn|Switch|Please turn] {state} the light in the {room}[.|]", "[Turn|Switch] the {room} light {state}[.|]"),
         "zh": ("[请|]{state}{room}的灯[。|]", "[把|请把]{room}的灯{state}[。|]")},
    ),
    Function(
        ("get_stock_price", "stock_price", "stock_quote", "quote"),
        {"en": ("Get the price of a stock", "Current share price"), "zh": ("查询股票价格",)},
        (Parameter("stock", ("symbol", "ticker", "stock"), "ticker", _about("Ticker symbol", "股票代码")),),
        {"en": ("What is the [stock |share |]price of {stock}?", "[How much is|Get the price of|Quote] {stock}[ stock|][?|.|]"),
         "zh": ("{stock}的[股价|股票价格]是多少？", "[查一下|查询]{stock}的股价[。|]")},
        (("price", "amount"),),
        {"en": "{stock} stands at {price}.", "zh": "{stock}的股价是{price}。"},
    ),
    Function(
        ("image_zoom_in_tool", "image_zoom_in_tool", "zoom_in", "crop_image"),
        {"en": ("Zoom in on a specific region of an image by cropping it based on a bounding box (bbox) and an optional object label.",
                "Zoom in on a region of an image", "Crop an image to a box"), "zh": ("放大图片的一个区域",)},
        (Parameter("box", ("bbox_2d", "bbox_2d", "bbox", "box"), "box",
                   _about("The region as [x1, y1, x2, y2], normalized to 0-1000", "区域[x1, y1, x2, y2]，0到1000")),
         Parameter("object", ("label", "label", "object"), "object", _about("The object in the box (optional)", "物体名称（可选）"), required=False, may_be_unsaid=True,
                   said={"en": ("[ and look at the {value}| and find the {value}|, where the {value} is]",), "zh": ("，看看{value}",)})),
        {"en": ("[Zoom in on|Zoom into|Look closer at|Enlarge|Crop to] the {box}[ of the image| of the picture|]{object}[.|]",
                "[Please zoom|Can you zoom] in on the {box}{object}[.|?|]"),
         "zh": ("[放大|请放大|仔细看]图片[的|]{box}{object}[。|]", "把{box}放大{object}[。|]")},
    ),
)  # fmt: skip

OBJECT_QUESTIONS = {
    "en": ("Is the {object} on the {box} of the {other}[ behind the {third}| in front of the {third}| near the {third}| behind {third}|]?",
           "What [colour|color|size] is the {object} on the {box}[ of the picture|]?"),
    "zh": ("{box}的{object}[是什么颜色|在{third}后面吗|是不是在{third}旁边]？",),
}  # fmt: skip
"""For the last function: a question that needs a closer look. Its label is what is asked about."""
