"""Functions made up on the spot, out of a verb, a thing and some parameters: nobody can know them but from their schema."""

from __future__ import annotations

import random

from .tool_functions import Function, Parameter
from .wording import pick

_VERBS = (
    ("paint", "粉刷"), ("clean", "打扫"), ("open", "打开"), ("close", "关闭"), ("move", "移动"), ("rent", "租用"), ("repair", "修理"), ("order", "订购"),
    ("check", "检查"), ("start", "启动"), ("stop", "停止"), ("cancel", "取消"), ("count", "清点"), ("list", "列出"), ("delete", "删除"),
    ("create", "创建"), ("update", "更新"), ("print", "打印"), ("share", "分享"), ("wash", "清洗"), ("lock", "锁定"), ("scan", "扫描"),
    ("sell", "出售"), ("buy", "购买"), ("find", "查找"), ("measure", "测量"), ("copy", "复制"), ("rename", "重命名"), ("test", "测试"), ("weigh", "称重"),
)  # fmt: skip
_THINGS = (
    ("fence", "栅栏"), ("door", "门"), ("car", "汽车"), ("robot", "机器人"), ("ticket", "车票"), ("report", "报告"), ("file", "文件"), ("garden", "花园"),
    ("printer", "打印机"), ("window", "窗户"), ("bike", "自行车"), ("boat", "小船"), ("machine", "机器"), ("account", "账户"), ("invoice", "发票"),
    ("room", "房间"), ("server", "服务器"), ("camera", "相机"), ("photo", "照片"), ("shelf", "架子"), ("parcel", "包裹"), ("table", "桌子"),
    ("contract", "合同"), ("sensor", "传感器"), ("drone", "无人机"), ("lamp", "台灯"), ("engine", "发动机"), ("project", "项目"), ("playlist", "歌单"),
    ("folder", "文件夹"), ("tank", "水箱"), ("pump", "水泵"), ("oven", "烤箱"), ("roof", "屋顶"), ("truck", "卡车"), ("bridge", "桥"),
)  # fmt: skip
_PARAMETERS = (
    ("color", "word"), ("count", "count"), ("owner", "person"), ("code", "code"), ("city", "city"), ("day", "date"), ("time", "time"),
    ("material", "word"), ("size", "word"), ("level", "count"), ("target", "object"), ("speed", "count"), ("label", "word"), ("number", "code"),
    ("user", "person"), ("start", "date"), ("weight", "amount"), ("price", "amount"), ("place", "city"), ("style", "word"), ("email", "address"),
    ("limit", "count"), ("group", "word"), ("serial", "code"), ("height", "amount"), ("driver", "person"), ("tag", "word"), ("goal", "city"),
)  # fmt: skip
_ENGLISH = (" with {p} {{value}}", ", {p} {{value}}", ", {p}: {{value}}", " ({p}: {{value}})", ", {p} = {{value}}")
_CHINESE = ("，{p}是{{value}}", "，{p}为{{value}}", "，{p}：{{value}}", "（{p}：{{value}}）", "，{p} = {{value}}")
_QUESTIONS = {
    "en": "[|Please |Can you |Could you |I want you to |Now ]{verb} [the|{a}|this] {thing}",
    "zh": "[请|帮我|请帮我|我想|现在]{verb}[一下|这个|]{thing}",
}


def invented(rng: random.Random) -> Function:
    return _made(rng, pick(rng, _VERBS), pick(rng, _THINGS))


def rival(rng: random.Random, function: Function) -> Function:
    """One that differs in its verb or its thing only."""
    assert function.rival_of is not None
    verb, thing = function.rival_of
    if rng.random() < 0.5:
        return _made(rng, _other(rng, _VERBS, verb), next(pair for pair in _THINGS if pair[0] == thing))
    return _made(rng, next(pair for pair in _VERBS if pair[0] == verb), _other(rng, _THINGS, thing))


def _other(rng: random.Random, pairs: tuple[tuple[str, str], ...], known: str) -> tuple[str, str]:
    pair = pick(rng, pairs)
    while pair[0] == known:
        pair = pick(rng, pairs)
    return pair


def _made(rng: random.Random, verb: tuple[str, str], thing: tuple[str, str]) -> Function:
    chosen: list[tuple[str, str]] = []
    for _ in range((1, 1, 2, 2, 3)[int(rng.random() * 5)]):
        pair = pick(rng, _PARAMETERS)
        if pair not in chosen:
            chosen.append(pair)
    parameters = tuple(_parameter(rng, place, name, kind) for place, (name, kind) in enumerate(chosen))
    slots = "".join("{" + parameter.slot + "}" for parameter in parameters)
    article = "an" if thing[0][0] in "aeiou" else "a"
    en, zh = (
        pattern.replace("{a}", article).replace("{verb}", verb[i]).replace("{thing}", thing[i])
        for i, pattern in enumerate(_QUESTIONS.values())
    )
    name = (
        f"{verb[0]}_{thing[0]}"
        if rng.random() < 0.75
        else pick(rng, (f"{verb[0]}{thing[0].title()}", f"{thing[0]}_{verb[0]}", f"do_{verb[0]}_{thing[0]}"))
    )
    about = {"en": (f"{verb[0].title()} {article} {thing[0]}", f"{verb[0].title()} the {thing[0]}"), "zh": (f"{verb[1]}{thing[1]}",)}
    return Function((name,), about, parameters, {"en": (f"{en}{slots}[.|]",), "zh": (f"{zh}{slots}[。|]",)}, rival_of=(verb[0], thing[0]))


def _parameter(rng: random.Random, place: int, name: str, kind: str) -> Parameter:
    optional = rng.random() < 0.2
    spelled = name if rng.random() < 0.7 else pick(rng, (f"{name}_name", f"new_{name}", f"the_{name}", f"{name}_value"))
    about = {"en": f"The {name}", "zh": f"{name}的值"}
    said = {"en": tuple(s.replace("{p}", name).replace("{{value}}", "{value}") for s in _ENGLISH),
            "zh": tuple(s.replace("{p}", name).replace("{{value}}", "{value}") for s in _CHINESE)}  # fmt: skip
    return Parameter(f"p{place}", (spelled,), kind, about, not optional, (), said, optional)
