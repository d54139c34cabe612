"""What fields are called: what is read in any spelling, what carries meaning, and what is known to be harmless."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Literal

# What lorakit reads, by the name that its readers use; in any spelling, case and punctuation left aside.
_SPELLINGS = {
    "messages": "messages msgs",
    "conversations": "conversations conversation dialog dialogs dialogue dialogues turns contents 对话",
    "chat": "chat",
    "system": "system systemprompt systemmessage systeminstruction metainstruction custominstructions sysprompt 系统 "
    "系统提示 系统提示词",
    "history": "history chathistory dialoghistory dialoguehistory conversationhistory 历史 历史对话 对话历史",
    "tools": "tools functions functiondefinitions availabletools toollist xmltools pythontools 工具",
    "images": "image images img imgs imagepath imagepaths imagefile imagefiles imageurl imageurls picture pictures "
    "photo photos pic imagename imagenames imagebytes imagedata picturepath photopath screenshot screenshots "
    "imgpath imgpaths imgfile imgurl imgname jpg jpeg png webp 图片 图像",
    "reasoning": "reasoning reasoningcontent thinking thought thoughts think cot complexcot chainofthought 思考 思维链",
    "role": "role from speaker",
    "content": "content value parts",
    "tool_calls": "toolcalls",
    "function_call": "functioncall",
    "call_id": "toolcallid",
    "masked": "masked",
    "loss": "loss lossmask",
    "train": "train trained trainable istrained",
    "weight": "weight",
    "question": "question ask 问题 问 提问",
    "user": "user 用户",
    "human": "human",
    "assistant": "assistant 助手",
    "bot": "bot",
    "problem": "problem",
    "solution": "solution",
    "answer": "answer 答案 回答 答",
    "instruction": "instruction 指令",
    "input": "input inputs inputtext 输入",
    "output": "output outputs outputtext 输出",
    "target": "target targets",
    "prompt": "prompt 提示",
    "completion": "completion",
    "response": "response 回复",
    "query": "query",
    "context": "context contexts passage passages paragraph document documents background article 上下文 背景 材料",
}

_MAP = (
    "map_fields: {{{0}: input}} puts it after the question (other meanings: system, history, reasoning, tools, images)"
)
_LEAVE = "ignore_fields: [{0}] leaves it out"
_NO_PREFERENCES = (
    "preferences (DPO) are not trained; map_fields: {{chosen: target}} with ignore_fields: [rejected] trains the "
    f"preferred answers alone; {_LEAVE}"
)
_NOT_PREFERRED = f"preferences (DPO) are not trained; {_LEAVE} and trains the other answers alone"
_CHOICES = f"write the choices into the question; {_LEAVE}"
_NO_SOUND = f"only text and pictures are trained; {_LEAVE}"
_NO_WEIGHT = f"only turns of messages and conversations have switches, 0 or 1; {_LEAVE}"
_INSTEAD = f"{_LEAVE}; beside a question, target_field: {{0}} makes it the answer in place of another field"
_THOUGHT = f"map_fields: {{{{{{0}}: reasoning}}}} has it thought before the answer to a question; {_LEAVE}"
_THOUGHT_APART = f"beside turns, write it into that of its answer, as reasoning_content; {_LEAVE}"
# Fields that carry meaning, whether lorakit can read them or not, and what to do where they are not used.
_REMEDIES = {
    _NO_PREFERENCES: "chosen rejected preferredoutput preferred margin acceptedresponse responsea responseb",
    _NOT_PREFERRED: "rejectedresponse nonpreferredoutput",
    _CHOICES: "options choices option choice a b c d e optiona optionb optionc optiond option1 option2 option3 option4 "
    "选项",
    _NO_SOUND: "video videos audio audios sound sounds speech videopath videopaths audiopath audiopaths videofile "
    "videofiles audiofile audiofiles videourl videourls audiourl audiourls 视频 音频",
    _NO_WEIGHT: "weight weights loss lossmask train trainable trained istrained masked mask label labels sampleweight "
    "lossweight ignore ignored skip skipped exclude excluded learn trainon istrainable shouldtrain notrain",
    _INSTEAD: f"{_SPELLINGS['answer']} {_SPELLINGS['output']} {_SPELLINGS['response']} {_SPELLINGS['solution']} "
    f"{_SPELLINGS['target']} {_SPELLINGS['completion']} answers attempt attempts deepseekattempt geminiattempt "
    "referenceanswer goldanswer bestanswer expectedanswer",
    _THOUGHT_APART: _SPELLINGS["reasoning"],
    _THOUGHT: "rationale explanation scratchpad trajectory trajectories thinkingtrajectory thinkingtrajectories "
    "deepseekthinkingtrajectory geminithinkingtrajectory",
    f"{_MAP}; {_LEAVE}": "text references reference definition story lecture evidence knowledge facts hint hints "
    "persona prefix suffix schema code table user assistant human steps",
}
_HARMLESS_WORDS = (
    "id ids idx index uuid guid hash source sources dataset datasetname category categories tag tags topic topics "
    "domain language lang languages locale license licence author url link createdat updatedat timestamp date time "
    "split version meta metadata model modelname generator task tasktype tasktemplate type difficulty level score "
    "rating quality tokens numtokens length paralleltoolcalls storemetadata detail cachecontrol refusal annotations "
    "strict signature unnamed0 indexlevel0 kind subcategory turn numturns views country hashedip header toxic redacted "
    "state openaimoderation detoxifymoderation langdetect languagecode annotationtype copyright reponame "
    "skippromptformatting custominstruction usedintraining geninputconfigs messagetreeid treestate reviewcount "
    "taskcategory othertaskcategory taskcategorygenerator difficultygenerator inputquality qualityexplanation "
    "qualitygenerator llamaguard2 rewardmodel instructreward minneighbordistance repeatcount minsimilaruuid "
    "answerstart answerend answeridx isimpossible instructionlength responselength schemaversion turnidentifier "
    "编号 序号 来源 类别 标签"
)
# Harmless where another field stands beside them: Magpie judges its questions.
_HARMLESS_BESIDE = {"knowledge": "inputquality", "intent": "inputquality"}
_ANSWER_WORDS = "output outputs response answer answers completion target targets solution assistant reference text"
_ANSWERS = frozenset(_ANSWER_WORDS.split())
_HARMLESS = frozenset(_HARMLESS_WORDS.split())
_HARMLESS_END = re.compile(r"(?:^|[ _\-])(?:id|ids|idx|index|uuid|hash|md5|sha\d+|url|tokens?_len)$|[a-z](?:Id|Url)$")
_PLAIN_YAML = re.compile(r"[^\W\d][\w .\-]*(?<! )")
_LEAST_ALIKE = 0.86  # sytem and system are 0.91 alike, texture and text 0.73

Fate = Literal["ignored", "harmless", "meant", "unknown"]


@dataclass(frozen=True)
class Judgement:
    """What a field is that nothing has read; ``remedy`` says what to do about it."""

    fate: Fate
    remedy: str = ""


def normal(name: str) -> str:
    """Return a name without case, spaces and punctuation: ``System Prompt`` and ``system_prompt`` are the same."""
    return "".join(character for character in name.casefold() if character.isalnum())


_READ = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_PICTURE = f"map_fields: {{{{{{0}}: images}}}} shows it to a model that sees; {_LEAVE}"
_PICTURE_IN_TURN = f'write it as a part of the turn, {{{{"type": "image", "image": ...}}}}; {_LEAVE}'
_MEANT = dict.fromkeys(_READ, f"{_MAP}; {_LEAVE}") | {
    spelling: remedy for remedy, spellings in _REMEDIES.items() for spelling in spellings.split()
}

# Of what carries meaning, that which tells of the answer; all else belongs to the question.
_TOLD = frozenset(
    " ".join(
        [_ANSWER_WORDS, "references steps"]
        + [
            _REMEDIES[remedy]
            for remedy in (_INSTEAD, _THOUGHT, _THOUGHT_APART, _NO_PREFERENCES, _NOT_PREFERRED, _NO_WEIGHT)
        ]
    ).split()
)


def harmless_beside(name: str) -> str | None:
    """Return the field beside which this one says nothing of question and answer; None where there is none."""
    return _HARMLESS_BESIDE.get(normal(name))


def is_of_answers(name: str) -> bool:
    """Tell a name that answers have."""
    return normal(name) in _ANSWERS


def is_asked(name: str) -> bool:
    """Tell a name of what belongs to a question, of all that carry meaning: its passage, its pictures, its choices."""
    return normal(name) not in _TOLD


@lru_cache(maxsize=4096)
def read_name(name: str) -> str:
    """Return the name under which the readers know a field; the name itself where they do not."""
    return _READ.get(normal(name), name)


@lru_cache(maxsize=4096)
def judged(name: str, ignored: frozenset[str]) -> Judgement:
    """Say what to do about a field that is not used.

    Args:
        name: As the file has it.
        ignored: The names that the settings leave out.
    """
    if name in ignored:
        return Judgement("ignored")
    plain = normal(name)
    if plain in _MEANT:
        return Judgement("meant", _MEANT[plain].format(_as_yaml(name)))
    if plain in _HARMLESS or not plain or _HARMLESS_END.search(name):
        return Judgement("harmless")
    if close := get_close_matches(plain, [*_MEANT, *_HARMLESS], n=1, cutoff=_LEAST_ALIKE):
        if close[0] in _HARMLESS:
            return Judgement("harmless")
        return Judgement("meant", f"did you mean {close[0]}? If not, {_LEAVE.format(_as_yaml(name))}")
    return Judgement("unknown", _LEAVE.format(_as_yaml(name)))


def judged_picture(place: str) -> Judgement:
    """Say what to do about a picture that is not used, by the place of the field that holds it."""
    remedy = _PICTURE_IN_TURN if "." in place else _PICTURE
    return Judgement("meant", remedy.format(_as_yaml(place)))


def _as_yaml(name: str) -> str:
    """Write a name as it stands in a list of YAML."""
    return name if _PLAIN_YAML.fullmatch(name) else json.dumps(name, ensure_ascii=False)
