"""Answers that repeat: some for a reason, some because the model is stuck."""

LEGITIMATE = {
    "laughter": "哈哈哈哈哈哈哈哈哈",
    "list": "- 苹果\n- 香蕉\n- 苹果\n- 橙子\n- 香蕉",
    "numbered list": "1. 早睡\n2. 早起\n3. 早睡\n4. 早起",
    "code": "```python\nx += 1\nx += 1\nx += 1\nx += 1\nx += 1\n```\n就是这样。",
    "bare code": "    print(i)\n" * 5 + "    return",
    "refrain": "Let it be, let it be, let it be, let it be",
    "poem": "This is the way the world ends\n" * 3 + "Not with a bang but a whimper.",
    "Chinese poem": "寻寻觅觅，冷冷清清，凄凄惨惨戚戚。\n错、错、错！\n莫、莫、莫！",
    "table": "| a | b |\n|---|---|\n| 0 | 0 |\n| 0 | 0 |\n| 0 | 0 |\n",
    "rule": "标题\n" + "-" * 120 + "\n正文",
    "zeros": "0, 0, 0, 0, 0, 0, 0, 0",
    "a sentence said twice": "不要急。不要急。慢慢来。",
    "empty": "",
}

# text, and what cleaning leaves of it
LOOPS = [
    ("早睡早起。" * 3, "早睡早起。"),
    ("先说。" + "早睡早起身体好。" * 9 + "早睡早", "先说。早睡早起身体好。"),
    ("我喜欢苹果。" * 6 + "我喜欢香蕉。", "我喜欢苹果。我喜欢香蕉。"),
    ("哈哈哈，真好。" * 6, "哈哈哈，真好。"),
    ("You should sleep early. " * 5, "You should sleep early. "),
    ("第一段话。\n第二段话。\n" * 7, "第一段话。\n第二段话。\n"),
    ("the cat sat on the mat and " * 9, "the cat sat on the mat and "),
    ("烫烫！" * 60, "烫烫！"),
    ("好的" + "。" * 300, "好的。"),
    ("```\n" + "x = 1\n" * 30, "```\nx = 1"),
]
