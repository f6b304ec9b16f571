"""Little stories with two numbers, in English and Chinese, and what they are about; works nothing out."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = {
    "en": (
        "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack", "Kate", "Leo", "Mia", "Noah", "Olivia", "Paul",
        "Ruby", "Sam", "Tina", "Victor", "Wendy", "Zoe", "Tom", "Lucy", "Peter", "Maria", "Omar", "Li Wei", "Xiao Ming", "Priya",
    ),
    "zh": (
        "小明", "小红", "小华", "小丽", "小刚", "小芳", "小强", "小美", "安娜", "汤姆", "李雷", "韩梅梅", "王伟", "张敏", "刘洋", "陈静",
        "杨帆", "赵磊", "阿杰", "吴娜", "徐亮", "孙燕", "马丽", "朱莉", "胡军", "林涛", "何琳", "高翔", "罗斌", "阿明",
    ),
}  # fmt: skip
THINGS = {
    "en": (
        "apples", "books", "pencils", "stickers", "marbles", "coins", "cards", "stamps", "eggs", "oranges", "cookies", "balloons", "flowers",
        "shells", "toys", "bananas", "candies", "stones", "photos", "tickets", "cups", "keys", "buttons", "pears",
    ),
    "zh": (
        "个苹果", "本书", "支铅笔", "张贴纸", "颗弹珠", "枚硬币", "张卡片", "张邮票", "个鸡蛋", "个橙子", "块饼干", "个气球", "朵花",
        "个贝壳", "个玩具", "根香蕉", "颗糖果", "块石头", "张照片", "张票", "个杯子", "把钥匙", "颗纽扣", "个梨",
    ),
}  # fmt: skip
"""The Chinese ones with their measure words."""


@dataclass(frozen=True)
class Story:
    operation: str
    text: str
    """A template (`wording`) with {name}, {other}, {things}, {a}, {b}."""
    end: str
    """The answer's sentence, with {r} for the result."""


STORIES = {
    "en": (
        Story("+", "{name} has {a} {things} and [gets|buys|finds|is given] {b} more. How many {things} does {name} have[ now|]?",
              "{name} has {r} {things}."),
        Story("+", "{name} has {a} {things} and {other} has {b} {things}. How many {things} do they have [together|in total|altogether]?",
              "Together they have {r} {things}."),
        Story("+", "There are {a} {things} in [one box|a bag|the first box] and {b} in [another|the other|the second]. "
                   "How many {things} are there [in all|altogether|in total]?", "There are {r} {things}."),
        Story("+", "{name} read {a} pages [yesterday|on Monday] and {b} pages [today|on Tuesday]. How many pages [is that|did {name} read]?",
              "{name} read {r} pages."),
        Story("-", "{name} has {a} {things} and [gives {b} to {other}|gives {b} away|loses {b}|sells {b}]. How many {things} [are left|"
                   "does {name} have left|remain]?", "{name} has {r} {things} left."),
        Story("-", "There [were|are] {a} {things} [on the table|in the box|in the shop] and {name} [takes|took] {b}[ of them|]. "
                   "How many [are left|remain]?", "There are {r} {things} left."),
        Story("-", "{name} has {a} {things}, {other} has {b}. How many more {things} does {name} have[ than {other}|]?",
              "{name} has {r} {things} more."),
        Story("×", "There are {a} boxes with {b} {things} each. How many {things} are there [in all|in total|]?", "There are {r} {things}."),
        Story("×", "{name} [buys|has] {a} bags of {things}. [Each bag holds|There are] {b} {things}[ in each bag|]. "
                   "How many {things} are there?", "There are {r} {things}."),
        Story("×", "One ticket costs {b} dollars. How much do {a} tickets cost?", "They cost {r} dollars."),
    ),
    "zh": (
        Story("+", "{name}有{a}{things}，[又得到了|又买了|又捡到|又拿来]{b}{thing}。[现在|]{name}[一共|]有多少{things}？", "{name}有{r}{things}。"),
        Story("+", "{name}有{a}{things}，{other}有{b}{things}。他们[一共|总共]有多少{things}？", "他们一共有{r}{things}。"),
        Story("+", "[一个盒子|第一个箱子|一个袋子]里有{a}{things}，[另一个|第二个]里有{b}{thing}，[一共|总共]有多少{things}？", "一共有{r}{things}。"),
        Story("+", "{name}[昨天|周一]看了{a}页书，[今天|周二]看了{b}页，[一共|总共]看了多少页？", "{name}一共看了{r}页。"),
        Story("-", "{name}有{a}{things}，[给了{other}|送出|卖掉|丢了]{b}{thing}，还[剩|有]多少{things}？", "{name}还剩{r}{things}。"),
        Story("-", "[桌上|盒子里|商店里]有{a}{things}，{name}拿走{b}{thing}，还剩[多少|几]{thing}？", "还剩{r}{things}。"),
        Story("-", "{name}有{a}{things}，{other}有{b}{thing}，{name}比{other}多多少{thing}？", "{name}多{r}{things}。"),
        Story("×", "有{a}个盒子，每个盒子里有{b}{things}，一共有多少{things}？", "一共有{r}{things}。"),
        Story("×", "{name}买了{a}袋，每袋有{b}{things}，一共有多少{things}？", "一共有{r}{things}。"),
        Story("×", "一张票{b}元，{a}张票[多少钱|要多少元]？", "一共{r}元。"),
    ),
}  # fmt: skip

WORDS = """\
strawberry apple banana cherry orange melon lemon grape peach coconut pineapple tomato potato carrot pepper onion bread butter cheese coffee
sugar water window mirror table chair pillow garden flower forest meadow river mountain island ocean summer winter spring autumn monday sunday
letter number pencil paper school teacher student doctor engine rocket planet saturn moon star hello world green yellow purple silver golden
little middle bottle rabbit tiger elephant giraffe monkey parrot spider butterfly kitten puppy chicken mississippi tennessee alabama london
paris berlin madrid canada america africa europe committee success balloon address connect tennis hammer ladder pattern kitchen blanket bicycle
airplane umbrella computer keyboard language sentence question answer triton ernie model server paddle token hippopotamus raspberry blueberry
necessary parallel assess possess bookkeeper
""".split()
"""Whose letters are counted."""
