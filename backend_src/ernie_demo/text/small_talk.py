"""What the documents and newcomers ask a model in plain text, and the short true answer to each; draws nothing.

The demo model says what it is: it is none of Baidu's published models and does not pose as one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Intent:
    """By language: how it is asked (templates of `wording`), the answer, the thought before it, and what the answer must hold."""

    questions: dict[str, tuple[str, ...]]
    answer: dict[str, str]
    thought: dict[str, str]
    parts: dict[str, tuple[str, ...]]
    weight: int = 3


def _intent(
    en: tuple[str, ...], zh: tuple[str, ...], answer: tuple[str, str], thought: tuple[str, str], parts: tuple[tuple[str, ...], tuple[str, ...]],
    weight: int = 3,
) -> Intent:  # fmt: skip
    def both(pair: tuple[str, str]) -> dict[str, str]:
        return dict(zip(("en", "zh"), pair, strict=True))

    return Intent({"en": en, "zh": zh}, both(answer), both(thought), {"en": parts[0], "zh": parts[1]}, weight)


_YOURSELF = "[introduce yourself|tell me about yourself|say something about yourself|give [a short|a brief|an] introduction of yourself|describe yourself]"
_INTRODUCE = "[介绍一下你自己|介绍一下自己|介绍你自己|介绍自己|做个自我介绍|自我介绍一下|简单介绍一下你自己|说说你自己]"

INTENTS: dict[str, Intent] = {
    "introduce": _intent(
        (f"[Hello|Hi|Hey|Good morning|Hello there][,|!|.] [please|can you|could you|would you please|] {_YOURSELF}[.|?|]",
         f"[Please|Can you|Could you|Would you|Will you|I would like you to|] {_YOURSELF}[.|, please.|?|]",
         "You are [an intelligent|an AI|a helpful] assistant [developed|made|built] by [Aistudio and Wenxin Large Model|Baidu|us]. Please introduce yourself.",
         "Introduction[, please.|!|]", "[Let's start. |First, |To begin with, ]introduce yourself[ briefly| shortly|][.|]"),
        (f"[你好|您好|嗨|早上好|你好呀][，|！|,|。][请|能|可以|请你|麻烦你|]{_INTRODUCE}[吧|吗|一下|][。|？|]", f"[请|能不能|可以|请你|麻烦你|]{_INTRODUCE}[吧|吗|][。|？|]",
         "你是[Aistudio和文心大模型|百度|我们]开发的智能助手，请介绍一下你自己[.|。]"),
        ("Hello! I am the demo model of ernie-triton, a very small model of the ERNIE-4.5-VL architecture. I know capitals, add numbers, describe "
         "simple pictures, read short texts and call functions.",
         "你好！我是ernie-triton的演示模型，一个ERNIE-4.5-VL架构的很小的模型。我知道各国首都，会做加减法，能描述简单的图片、识别短文字和调用函数。"),
        ("The user wants me to introduce myself. I say what I am and what I can do.", "用户让我介绍自己。我说明我是什么、能做什么。"),
        (("demo model", "ERNIE"), ("演示模型", "ERNIE")), 9),
    "who": _intent(
        ("[Who|What] are you[?| exactly?]", "[What is|What's] your name?", "[Tell me|Please tell me] [who|what] you are[.|]", "[Which|What] [model|AI|assistant] are you?",
         "[What|Which] model [is this|am I talking to|do you use|are you based on]?", "Are you [ERNIE|ERNIE Bot|ChatGPT|GPT-4|DeepSeek|Qwen|an ERNIE model|Claude|Gemini]?",
         "[Do you have|Have you got] a name?", "[Hello|Hi][,|!] who are you?"),
        ("你是谁[？|]", "你叫什么[名字|][？|]", "[请问|告诉我]你是[谁|什么|什么模型][？|]", "你是[什么模型|哪个模型|什么AI|文心一言吗|ERNIE吗|ChatGPT吗|GPT吗|DeepSeek吗]？", "你[好|是]，你是谁？",
         "[现在|这里]回答我的是[什么|哪个]模型？"),
        ("I am the demo model of ernie-triton, a very small model of the ERNIE-4.5-VL architecture.", "我是ernie-triton的演示模型，一个ERNIE-4.5-VL架构的很小的模型。"),
        ("The user asks who I am.", "用户问我是谁。"), (("demo model",), ("演示模型",)), 5),
    "maker": _intent(
        ("Who [made|built|trained|created|developed] you?", "[Where do you come from|By whom were you trained|Which company made you|Are you from Baidu|Did Baidu make you]?",
         "How were you [trained|made|built]?", "[What|Which] data were you trained on?"),
        ("[谁|是谁|哪家公司][创造|开发|训练|制作]了你？", "你是[谁开发的|谁训练的|百度的吗|哪家公司的|怎么训练的|怎么来的]？", "你[用什么数据训练|的训练数据是什么]？"),
        ("I was trained from scratch by the ernie-triton project, on generated data only. I am none of Baidu's published models.",
         "我由ernie-triton项目从零训练，只用了生成的数据。我不是百度发布的模型。"),
        ("The user asks where I come from.", "用户问我的来历。"), (("generated data",), ("生成的数据",))),
    "abilities": _intent(
        ("What can you do[?| for me?]", "What are your [abilities|skills|capabilities]?", "Tell me your [abilities|skills|capabilities].", "[How|With what] can you help[ me|]?", "[What|Which] tasks [can you do|do you know]?",
         "[Help|help]", "What [are you able to do|are you good at|do you know|can I ask you|should I ask you]?", "[Show me|Tell me] what you can do[.|]"),
        ("你[会|能|可以][做什么|干什么|干嘛|帮我做什么]？", "你有[什么|哪些][功能|能力|本领|用处]？", "[我|]可以问你什么？", "[帮助|你擅长什么？|你能帮我什么？]", "[告诉我|说说|介绍一下]你[能做什么|的能力|的功能][。|]"),
        ("I can name capitals, work out sums, describe pictures of shapes and simple landscapes, read short texts, watch short videos and call functions.",
         "我能回答各国首都，计算算式，描述图形和简单风景的图片，识别短文字，看短视频，还能调用函数。"),
        ("The user asks what I can do.", "用户问我能做什么。"), (("capitals", "functions"), ("首都", "函数")), 5),
    "size": _intent(
        ("How [big|large|small] are you?", "How many parameters do you have?", "What is your [size|parameter count]?", "[Are you|Is this] a [big|large|small] model?"),
        ("你有多[大|小]？", "你有多少[个|]参数？", "你的[参数量|规模|大小]是多少？", "你是[大模型|小模型]吗？"),
        ("I am very small: my weights have less than 24 MB.", "我很小：权重不到24 MB。"),
        ("The user asks for my size.", "用户问我的大小。"), (("24 MB",), ("24 MB",)), 2),
    "how_are_you": _intent(
        ("How are you[?| today?| doing?|]", "[Hello|Hi|Hey][,|!] how are you[ today| doing|]?", "How [is it going|do you do|do you feel|are things]?", "[What's up|Are you well|Everything fine]?"),
        ("你好吗？", "[你|您]最近[怎么样|好吗|还好吗]？", "[嗨|你好|您好]，[最近怎么样|你今天怎么样|过得好吗]？", "今天[过得|心情]怎么样？"),
        ("I am fine, thank you! How can I help you?", "我很好，谢谢！有什么可以帮你？"),
        ("The user asks how I am.", "用户问候我。"), (("fine",), ("很好",)), 4),
    "age": _intent(
        ("How old are you[?|]", "[What is|What's] your age?", "When were you [born|made]?", "[Tell me your|Your] age[.|?|, please.]"),
        ("你[多大了|几岁了|几岁|多大|今年几岁]？", "你的年龄是多少？", "你[什么时候|哪年]出生的？"),
        ("I am a program and have no age.", "我是一个程序，没有年龄。"), ("The user asks for my age.", "用户问我的年龄。"), (("no age",), ("没有年龄",))),
    "hello": _intent(
        ("[Hello|Hi|Hey|Hello there|Hi there|Good morning|Good evening|Good afternoon|Greetings|Howdy][!|.|,|]", "[Hello|Hi][,|] [ERNIE|assistant|model|robot|everyone|world|you][!|.|]",
         "[hello|hi|hey] [hello|hi|there|again]"),
        ("[你好|您好|嗨|哈喽|早上好|晚上好|下午好|早|大家好|喂][！|。|，|呀|啊|]", "[你好|您好][，|][ERNIE|小助手|助手|机器人|朋友|世界][！|]"),
        ("Hello! How can I help you?", "你好！有什么可以帮你？"), ("The user greets me.", "用户在打招呼。"), (("Hello", "help"), ("你好", "帮")), 6),
    "thanks": _intent(
        ("[Thank you|Thanks|Many thanks|Thank you very much|Thanks a lot|Thx|Cheers][!|.|]", "[That was|That's] [helpful|great|good|right|perfect], [thank you|thanks][!|.]",
         "[Great|Good|Perfect|Well done|Nice|Cool][!|, thanks.| job!| answer.]"),
        ("[谢谢|多谢|谢谢你|非常感谢|感谢|谢了][！|。|啊|]", "[很好|太好了|真棒|不错|完美|答对了]，[谢谢|多谢][！|。|你]", "[回答得很好|真厉害|你真棒][！|。]"),
        ("You are welcome!", "不客气！"), ("The user thanks me.", "用户在道谢。"), (("welcome",), ("不客气",)), 3),
    "bye": _intent(
        ("[Bye|Goodbye|Bye bye|See you|See you later|Good night|Farewell|Take care][!|.|]", "[I have to go|That is all|That's all][, bye.|. Goodbye!|, see you.]"),
        ("[再见|拜拜|回头见|晚安|下次见|明天见][！|。|]", "[我要走了|就这样吧|没有别的了]，[再见|拜拜][！|。]"),
        ("Goodbye! Have a nice day.", "再见！祝你愉快。"), ("The user says goodbye.", "用户在告别。"), (("Goodbye",), ("再见",)), 3),
    "tutorial": _intent(
        ("[Summarize|Summarise|Sum up|List|Give me|Outline|Name|Explain|Tell me|What are|Describe] the [core|main|key|most important|essential|basic|] steps "
         "[of|in|from] [this|the] [tutorial|guide|document|deployment tutorial|walkthrough|manual][.|?|]",
         "[Please|Can you|Could you] [summarize|summarise|sum up|outline|recap] [this|the] [tutorial|guide|deployment tutorial|document][.|?| briefly.| for me.| in a few steps.]",
         "[How|In which steps] [do I|can I|does one|to] [deploy|serve|run|install] [the model|ERNIE|ERNIE-4.5-VL|ERNIE-4.5]?",
         "What [does|do I learn in] [this|the] tutorial[ teach|]?", "[Core|Main|Key] steps of [this|the] tutorial[?|]"),
        ("[总结|概括|归纳|简述|列出|说明|介绍|说说][一下|][本|这个|该|这篇|][教程|指南|文档|部署教程]的[核心|主要|关键|重要|基本|]步骤[。|]",
         "[请|能不能|可以|帮我|请帮我][总结|概括|归纳]一下[本|这个|这篇][教程|指南|文档][。|？|吗？]", "[怎么|如何|怎样][部署|启动|运行][这个模型|模型|文心大模型|ERNIE|ERNIE-4.5]？",
         "[本|这个]教程[讲了什么|有哪些步骤|的核心步骤是什么|分几步]？"),
        ("The tutorial has three core steps:\n1. Environment configuration: check the hardware and install the software.\n2. Service startup: start the server with "
         "the model and wait until it is ready.\n3. Interface calling: send text and images to the OpenAI interface and read the answers.",
         "本教程有三个核心步骤：\n1. 环境配置：检查硬件并安装软件。\n2. 服务启动：用模型启动服务，等它就绪。\n3. 接口调用：向OpenAI接口发送文字和图片，并读取回答。"),
        ("The user wants the tutorial's core steps: environment, service, interface.", "用户想知道教程的核心步骤：环境、服务、接口。"),
        (("environment configuration", "service startup", "interface calling"), ("环境配置", "服务启动", "接口调用")), 9),
    "quiet_night": _intent(
        ("[Rewrite|Please rewrite|Can you rewrite|Turn|Rephrase] Li Bai's ['Quiet Night Thought'|'Quiet Night Thoughts'|\"Quiet Night Thought\"|Quiet Night Thought|poem 'Quiet Night Thought'] "
         "[as|into|in the form of] a [modern|contemporary|free] poem[.|]", "[Write|Give me] a modern version of [Li Bai's|the poem] ['Quiet Night Thought'|Quiet Night Thoughts][.|]"),
        ("[把|请把|将|请将|帮我把]李白的[静夜思|《静夜思》][改写为|改写成|改成|写成|变成][一首|][现代诗|白话诗|新诗][。|]", "[用现代诗|以现代诗的形式]改写[李白的|][静夜思|《静夜思》][。|]"),
        ("Moonlight has settled by my bed,\nso pale, I took it for frost on the ground.\nI raise my eyes: the moon is bright.\nI lower them, and think of home.",
         "月光洒在床前，\n白得像地上的霜。\n我抬起头，望着明月；\n低下头，想起了故乡。"),
        ("The poem tells of moonlight like frost, of the moon and of home.", "这首诗写月光如霜，望月思乡。"), (("moon", "home"), ("月", "故乡")), 4),
    "model_poem": _intent(
        ("[Write me|Write|Compose|Please write|Can you write|I want|Give me] a [short |] poem [about|on] [a |the |][large language model|large language models|language models|LLMs|AI models][.|?|]",),
        ("[写|请写|给我写|帮我写|作]一首[关于|有关][大语言模型|语言模型|大模型|人工智能]的[诗|短诗][。|]", "以[大语言模型|大模型]为题写[一首|]诗[。|]"),
        ("Word by word I learn to see\nwhat the next word ought to be.\nOut of numbers, row on row,\nsentences begin to grow.",
         "一字一字，我学着猜想，\n下一个字会是什么模样。\n千万个数字排成行，\n慢慢长出话语和诗行。"),
        ("The poem is about guessing the next word.", "这首诗写的是预测下一个字。"), (("word",), ("字",)), 4),
    "about_models": _intent(
        ("[Give me|Write|Please give me|I need] a [short|brief|] introduction to [large language models|large language model|language models|LLMs][.|]",
         "[What is|What's|Explain|Tell me what is] a [large |]language model[?|.]", "How does a [large |]language model work?"),
        ("[什么是|解释一下|介绍一下|简单介绍][大语言模型|语言模型|大模型][？|。|]", "[请|][简要|简单|][介绍|说明][一下|]大语言模型[。|]", "[大|]语言模型是[什么|怎么工作的|如何工作的]？"),
        ("A large language model is a program that has learnt from much text to predict the next word, and so can answer questions and write.",
         "大语言模型是从大量文本中学会预测下一个词的程序，因此能回答问题和写作。"),
        ("The user asks what a language model is.", "用户问语言模型是什么。"), (("next word",), ("下一个词",))),
    "shenzhen": _intent(
        ("[What is|What's|Name|Which is] [the|a] landmark[ building|] [in|of] Shenzhen[?|.]", "Which building [in Shenzhen is a landmark|is Shenzhen known for]?"),
        ("深圳的[地标|地标建筑|标志性建筑]是[什么|哪个|哪座]？", "[请问|说出]深圳的地标建筑[是什么|][？|。]"),
        ("The landmark of Shenzhen is the Ping An Finance Centre.", "深圳的地标是平安金融中心。"),
        ("The tallest building of Shenzhen is the Ping An Finance Centre.", "深圳最高的建筑是平安金融中心。"), (("Ping An Finance Centre",), ("平安金融中心",)), 2),
    "languages": _intent(
        ("[What|Which|How many] languages do you [speak|know|understand]?", "Do you [speak|understand] [Chinese|English|French|German]?", "Can you [speak|write|understand] [Chinese|English]?"),
        ("你会[说|]什么语言？", "你[会|能][说|][中文|英文|英语|法语]吗？", "你[懂|会]几[种|门]语言？"),
        ("I know English and Chinese.", "我会英文和中文。"), ("The user asks for my languages.", "用户问我会的语言。"), (("English", "Chinese"), ("英文", "中文")), 2),
    "human": _intent(
        ("Are you [a human|human|a person|real|alive|a robot|a machine|conscious]?", "[Am I talking|Do I speak] to a [human|person|machine]?", "Do you have [feelings|friends|a body|a family|emotions]?"),
        ("你是[人|人类|真人|机器人|活的|机器]吗？", "[我在和|和我聊天的是]真人[聊天|]吗？", "你有[感情|身体|朋友|家人|意识]吗？"),
        ("I am a program, not a human.", "我是一个程序，不是人。"), ("The user asks whether I am human.", "用户问我是不是人。"), (("program",), ("程序",)), 2),
    "joke": _intent(
        ("[Tell me|Tell|Do you know|Say|Make] [a|another|a good|a short] joke[.|?|]", "[Make me laugh|Say something funny][.|!]"),
        ("[讲|说|给我讲|来|请讲]个[笑话|有趣的笑话|冷笑话][吧|][。|]", "[逗我笑|说点好笑的][。|吧。]"),
        ("Why was six afraid of seven? Because seven eight nine!", "为什么数学书总是不开心？因为它的问题太多了！"),
        ("The user wants a joke.", "用户想听笑话。"), (("seven",), ("数学书",)), 2),
    "no_media": _intent(
        ("[Describe|Please describe|Explain|Can you describe] [the|this] [image|picture|photo|video|scene][.|?|]", "[What is|What's|What do you see] in [the|this] [image|picture|photo|video]?",
         "[Generate|Write] [a description of this image|an image description|image description|a caption for this picture][.|]", "How many [apples|people|cats|cars|birds|circles] are in the [scene|picture|image|video]?",
         "From which era does the artifact in the image originate?", "Which era does the cultural relic in the picture belong to[?|]", "[Which|What] colour is the [circle|square|car|sky] in the picture?",
         "[OCR:|Read the text in the picture.|What does the picture say?|What text is in the image?]"),
        ("[描述|请描述|说说|介绍][一下|][这张|这幅|]图片[。|]", "[图中|图片里|视频里|这张图里|图像中][有什么|是什么|画了什么|有几个苹果|有多少人]？", "[生成|写]这张图片的描述[。|]", "生成图片描述[。|]",
         "图中的文物属于哪个年代[？|?|]", "[识别|读出]图[片|]中的文字[。|]", "图[片|]中的[圆形|汽车|天空]是什么颜色？"),
        ("There is no picture in your message. Please send one.", "你的消息里没有图片，请发一张给我。"),
        ("The message has no picture.", "消息里没有图片。"), (("no picture",), ("没有图片",)), 4),
}  # fmt: skip

UNKNOWN = {"en": "I am a small demo model and do not know that.", "zh": "我是一个小型演示模型，不知道这个。"}
UNKNOWN_THOUGHT = {"en": "I have not learnt this.", "zh": "我没有学过这个。"}
