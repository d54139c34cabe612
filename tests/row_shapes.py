"""Rows as people have them, each with the conversation that it is, written by hand for `apply_chat_template`."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import Any

Q, A = {"role": "user", "content": "How far?"}, {"role": "assistant", "content": "Nine miles."}
Q2, A2 = {"role": "user", "content": "And back?"}, {"role": "assistant", "content": "As far again."}
SYSTEM = {"role": "system", "content": "Be brief."}
WEATHER = {
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOL = {"type": "function", "function": WEATHER}
OSLO, ROME = {"city": "Oslo"}, {"city": "Rome", "days": 2.5}


def call(arguments: Any, name: str = "weather", **more: Any) -> dict[str, Any]:
    return {**more, "type": "function", "function": {"name": name, "arguments": arguments}}


ASK = {"role": "user", "content": "Warm in Oslo?"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [call(OSLO)]}
RESULT = {"role": "tool", "content": '{"celsius": 21}'}
SAID = {"role": "assistant", "content": "Yes, 21 degrees."}
THOUGHT = "Ten less one."
REASONED = {**A, "reasoning_content": THOUGHT}


@dataclass(frozen=True)
class Shape:
    """One row.

    Attributes:
        content: Of its file.
        messages: The same conversation, by hand.
        trained: Which of the messages carry loss; None for every answer.
        tools: That the conversation offers.
        settings: That it needs.
    """

    content: bytes
    messages: tuple[dict[str, Any], ...]
    trained: tuple[int, ...] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()


def row(fields: Any, *messages: dict[str, Any], **more: Any) -> Shape:
    return Shape(json.dumps([fields], ensure_ascii=False).encode(), messages, **more)


def text(content: str | bytes, *messages: dict[str, Any], **more: Any) -> Shape:
    return Shape(content.encode() if isinstance(content, str) else content, messages, **more)


def calling(fields: Any, *messages: dict[str, Any], **more: Any) -> Shape:
    return row(fields, *messages, tools=(TOOL,), **more)


def turns(*messages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Messages, the last of them with a few more keys."""
    return {"messages": [*messages[:-1], {**messages[-1], **changes}]}


def pair(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {question: Q["content"], answer: A["content"], **more}


def spoken(*pairs: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": said} for who, said in pairs], **more}


HUMAN, GPT = ("human", Q["content"]), ("gpt", A["content"])
PASSAGE = "The road has nine milestones."
WITH_PASSAGE = {"role": "user", "content": f"{Q['content']}\n{PASSAGE}"}
LINE = json.dumps(pair("text", "target"))
HERMES_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
FUNCTION = json.dumps(WEATHER)
GLAIVE_SYSTEM = (
    "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n" + FUNCTION
)
GLAIVE_SAMPLE = (
    f"{GLAIVE_SYSTEM}\nUSER: {ASK['content']}\nASSISTANT: <functioncall> "
    '{"name": "weather", "arguments": \'{"city": "Oslo"}\'} <|endoftext|>\n'
    f"FUNCTION RESPONSE: {RESULT['content']}\nASSISTANT: {SAID['content']} <|endoftext|>\n"
)
TOOLACE_SYSTEM = (
    "You are an expert in composing functions. Here is a list of functions in JSON format that you can invoke:\n"
    f"[{FUNCTION}]. \nShould you decide to return the function call(s). \nPut it in the format of [func1(a=b)]\n"
)
REPLIES = {"message_id": "b", "role": "assistant", "replies": []}
NEXT_QUESTION = {**REPLIES, "role": "prompter", "text": Q2["content"]}
TREE = {
    **{"message_id": "a", "role": "prompter", "text": Q["content"], "lang": "en"},
    "replies": [
        {**REPLIES, "text": "Far.", "rank": 1},
        {
            **REPLIES,
            "text": A["content"],
            "rank": 0,
            "replies": [{**REPLIES, "role": "prompter", "text": Q2["content"]}],
        },
    ],
}


def of_moss(question: str, answer: str, thought: str = "None") -> dict[str, str]:
    return {
        "Human": f"<|Human|>: {question}<eoh>\n",
        "Inner Thoughts": f"<|Inner Thoughts|>: {thought}<eot>\n",
        "Commands": "<|Commands|>: None<eoc>\n",
        "Tool Responses": "<|Results|>: None<eor>\n",
        "MOSS": f"<|MOSS|>: {answer}<eom>\n",
    }


GLAIVE_CHAT = (
    f"USER: {ASK['content']}\n\n\nASSISTANT: <functioncall> "
    '{"name": "weather", "arguments": \'{"city": "Oslo"}\'} <|endoftext|>\n\n\n'
    f"FUNCTION RESPONSE: {RESULT['content']}\n\n\nASSISTANT: {SAID['content']} <|endoftext|>\n\n\n"
)
LONG_QUESTION = "Wie weit ist es bis zur nächsten Brücke über den Fluss, und wie groß sind die Schäden?"
LONG_ANSWER = "Ungefähr neun Meilen, dort führt die Straße über die alte Brücke, die größten Schäden sind behoben."
GERMAN = ({"role": "user", "content": LONG_QUESTION}, {"role": "assistant", "content": LONG_ANSWER})
GERMAN_CSV = f"text;target\n{LONG_QUESTION};{LONG_ANSWER}\n"
CHINESE = (
    {"role": "user", "content": "如何保持良好的睡眠质量？"},
    {"role": "assistant", "content": "每天在固定的时间上床和起床，睡前一小时放下手机。"},
)
CHINESE_CSV = f"text,target\n{CHINESE[0]['content']},{CHINESE[1]['content']}\n"
TAIWAN = (
    {"role": "user", "content": "如何保持良好的睡眠品質？"},
    {"role": "assistant", "content": "每天在固定的時間上床和起床，睡前一小時放下手機。"},
)
TAIWAN_CSV = f"text,target\n{TAIWAN[0]['content']},{TAIWAN[1]['content']}\n"

SHAPES = {
    # question and answer under the names that people give them
    "text/target": row(pair("text", "target"), Q, A),
    "prompt/completion": row(pair("prompt", "completion"), Q, A),
    "prompt/response": row(pair("prompt", "response"), Q, A),
    "question/answer": row(pair("question", "answer"), Q, A),
    "Question/Answer": row(pair("Question", "Answer"), Q, A),
    "query/response": row(pair("query", "response"), Q, A),
    "input/output": row(pair("input", "output"), Q, A),
    "instruction/response": row(pair("instruction", "response"), Q, A),
    "user/assistant": row(pair("user", "assistant"), Q, A),
    "问题/答案": row(pair("问题", "答案"), Q, A),
    "指令/输出": row(pair("指令", "输出"), Q, A),
    "names of one's own": row(
        pair("frage", "antwort"), Q, A, settings=(("text_field", "frage"), ("target_field", "antwort"))
    ),
    "names by map_fields": row(
        pair("提问", "回应"), Q, A, settings=(("map_fields", {"提问": "text", "回应": "target"}),)
    ),
    # what stands beside them
    "system beside text": row(pair("text", "target", system="Be brief."), SYSTEM, Q, A),
    "system beside prompt": row(pair("prompt", "completion", system="Be brief."), SYSTEM, Q, A),
    "system_prompt beside question": row(pair("question", "answer", system_prompt="Be brief."), SYSTEM, Q, A),
    "System Prompt beside query": row(pair("query", "response", **{"System Prompt": "Be brief."}), SYSTEM, Q, A),
    "an empty system": row(pair("query", "response", system=""), Q, A),
    "history beside prompt": row(
        {"prompt": Q2["content"], "completion": A2["content"], "history": [[Q["content"], A["content"]]]}, Q, A, Q2, A2
    ),
    "history as messages": row(
        {"question": Q2["content"], "answer": A2["content"], "history": [Q, A]}, Q, A, Q2, A2, trained=(3,)
    ),
    "history null": row(pair("query", "response", history=None), Q, A),
    "alpaca": row(pair("instruction", "output", input=""), Q, A),
    "alpaca with input": row(pair("instruction", "output", input=PASSAGE), WITH_PASSAGE, A),
    "dolly": row(pair("instruction", "response", context=PASSAGE, category="closed_qa"), WITH_PASSAGE, A),
    "dolly without context": row(pair("instruction", "response", context=""), Q, A),
    "a passage by map_fields": row(
        pair("question", "answer", context=PASSAGE), WITH_PASSAGE, A, settings=(("map_fields", {"context": "input"}),)
    ),
    "a passage left out": row(
        pair("question", "answer", passage=PASSAGE), Q, A, settings=(("ignore_fields", ["passage"]),)
    ),
    "reasoning beside": row(pair("question", "answer", reasoning=THOUGHT), Q, REASONED),
    "Complex_CoT": row(pair("Question", "Response", Complex_CoT=THOUGHT), Q, REASONED),
    "harmless fields": row(pair("text", "target", id=7, source="web", tags=["x"]), Q, A),
    "a number for an answer": text(
        '[{"text": "How far?", "target": 1.10}]', Q, {"role": "assistant", "content": "1.10"}
    ),
    # conversations
    "messages": row(turns(Q, A), Q, A),
    "messages of several turns": row(turns(SYSTEM, Q, A, Q2, A2), SYSTEM, Q, A, Q2, A2),
    "developer": row(turns({**SYSTEM, "role": "developer"}, Q, A), SYSTEM, Q, A),
    "an empty system turn": row(turns({**SYSTEM, "content": ""}, Q, A), Q, A),
    "system beside the same turn": row({**turns(SYSTEM, Q, A), "system": "Be brief."}, SYSTEM, Q, A),
    "what follows the last answer": row(turns(Q, A, Q2), Q, A),
    "parts of text": row(
        turns({"role": "user", "content": [{"type": "text", "text": "How "}, {"type": "text", "text": "far?"}]}, A),
        Q,
        A,
    ),
    "messages as JSON text": row({"messages": json.dumps([Q, A])}, Q, A),
    "messages as Python text": row({"messages": str([Q, A])}, Q, A),
    "messages in a CSV": text('id,messages\n1,"' + json.dumps([Q, A]).replace('"', '""') + '"\n', Q, A),
    "from null beside role": row({"messages": [{"from": None, "value": None, **turn} for turn in (Q, A)]}, Q, A),
    "question and answer in one turn": row(
        {
            "conversation": [
                {"human": Q["content"], "assistant": A["content"]},
                {"human": Q2["content"], "assistant": A2["content"]},
            ]
        },
        Q,
        A,
        Q2,
        A2,
    ),
    "input and output in one turn": row(
        {
            "conversation": [
                {"input": Q["content"], "output": A["content"]},
                {"input": Q2["content"], "output": A2["content"]},
            ]
        },
        Q,
        A,
        Q2,
        A2,
    ),
    "sharegpt": row(spoken(HUMAN, GPT), Q, A),
    "sharegpt with system": row(spoken(HUMAN, GPT, system="Be brief."), SYSTEM, Q, A),
    "sharegpt roles in messages": row({"messages": spoken(HUMAN, GPT)["conversations"]}, Q, A),
    "dialogue": row({"dialogue": [Q, A]}, Q, A),
    "Gemini": row(
        {
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "How far?"}]},
                {"role": "model", "parts": [{"text": "Nine miles."}]},
            ],
        },
        SYSTEM,
        Q,
        A,
    ),
    "prompt and completion as messages": row(
        {"prompt": [SYSTEM, Q, A, Q2], "completion": [A2]}, SYSTEM, Q, A, Q2, A2, trained=(4,)
    ),
    "prompt as messages": row({"prompt": [Q], "completion": A["content"]}, Q, A),
    "columns of other shapes, null": row(
        {"text": None, "target": None, "conversations": [], "messages": None, **pair("question", "answer")}, Q, A
    ),
    # conversations as public files have them
    "turns that are texts": row({"conversations": [Q["content"], A["content"]], "source": "web"}, Q, A),
    "texts under data": row(
        {"id": "0", "data": [Q["content"], A["content"], Q2["content"], A2["content"]]}, Q, A, Q2, A2
    ),
    "turns under items": row({"items": spoken(HUMAN, GPT)["conversations"]}, Q, A),
    "a prompt that repeats the first turn": row(
        {"prompt": Q["content"], "prompt_id": "7", **turns(Q, A), "category": "x"}, Q, A
    ),
    "question and answer that repeat the turns": row({**pair("instruction", "response"), **turns(Q, A)}, Q, A),
    "Alpaca's own text": row(
        pair(
            "instruction",
            "output",
            input="",
            text="Below is an instruction that describes a task.\n\n### Instruction:\nHow far?\n\n"
            "### Response:\nNine miles.",
        ),
        Q,
        A,
    ),
    "system in a turn of question and answer": row(
        {"conversation": [{"system": "Be brief.", "input": Q["content"], "output": A["content"]}]}, SYSTEM, Q, A
    ),
    "system as parts": row({"system": [{"text": "Be brief."}], **turns(Q, A)}, SYSTEM, Q, A),
    "MOSS": row(
        {
            "meta_instruction": "Be brief.",
            "num_turns": 2,
            "chat": {"turn_1": of_moss(Q["content"], A["content"]), "turn_2": of_moss(Q2["content"], A2["content"])},
        },
        SYSTEM,
        Q,
        A,
        Q2,
        A2,
    ),
    "MOSS with a thought": row({"chat": {"turn_1": of_moss(Q["content"], A["content"], THOUGHT)}}, Q, REASONED),
    "MOSS as text": row(
        {
            "prefix": "Be brief.",
            "plain_text": "[Human]: How far?<eoh> [MOSS]: Nine miles.<eoa> [Human]: And back?<eoh> "
            "[MOSS]: As far again.<eoa> ",
        },
        SYSTEM,
        Q,
        A,
        Q2,
        A2,
    ),
    "Belle": row(
        {
            "instruction": "Human: How far?\nAssistant:Nine miles.\nHuman:And back?\nAssistant:",
            "input": "",
            "output": A2["content"],
        },
        Q,
        A,
        Q2,
        A2,
    ),
    "Belle with wide colons": row(
        {"instruction": "Human：How far?\nAssistant：", "input": "", "output": A["content"]}, Q, A
    ),
    "Anthropic's prompt": row({"prompt": "\n\nHuman: How far?\n\nAssistant:", "completion": " Nine miles."}, Q, A),
    "Guanaco": row(
        {"text": "### Human: How far?### Assistant: Nine miles.### Human: And back?### Assistant: As far again."},
        Q,
        A,
        Q2,
        A2,
    ),
    "Baize": row(
        {
            "input": "The conversation between human and AI assistant.\n[|Human|] How far?\n[|AI|] Nine miles.\n"
            "[|Human|] "
        },
        Q,
        A,
    ),
    "a tree of messages": row({"message_tree_id": "a", "tree_state": "ready_for_export", "prompt": TREE}, Q, A),
    "a question that only talks of speakers": row(
        {"text": "What does Human: mean?", "target": A["content"]},
        {"role": "user", "content": "What does Human: mean?"},
        A,
    ),
    "problem/solution": row(pair("problem", "solution"), Q, A),
    "inputs/targets": row(pair("inputs", "targets"), Q, A),
    "content beside reasoning_content": row(
        {"input": Q["content"], "reasoning_content": THOUGHT, "content": A["content"], "repo_name": "x"}, Q, REASONED
    ),
    "reasoning that is a switch": row(
        {"input": [Q], "output": A["content"], "reasoning": "off", "system_prompt": "Be brief."}, SYSTEM, Q, A
    ),
    "reasoning in a list of one": row(pair("question", "answer", thoughts=[THOUGHT]), Q, REASONED),
    # reasoning
    "OpenThoughts": row(
        spoken(
            ("user", Q["content"]),
            (
                "assistant",
                f"<|begin_of_thought|>\n\n{THOUGHT}\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n{A['content']}\n\n"
                "<|end_of_solution|>",
            ),
            system=SYSTEM["content"],
        ),
        SYSTEM,
        Q,
        REASONED,
    ),
    "tags of Magistral": row(
        pair("question", "answer") | {"answer": f"[THINK]{THOUGHT}[/THINK]{A['content']}"}, Q, REASONED
    ),
    "reasoning_content": row(turns(Q, A, reasoning_content=THOUGHT), Q, REASONED),
    "reasoning of a turn": row(turns(Q, A, reasoning=THOUGHT), Q, REASONED),
    "thinking of a turn": row(turns(Q, A, thinking=THOUGHT), Q, REASONED),
    "thinking part": row(
        turns(Q, A, content=[{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": A["content"]}]),
        Q,
        REASONED,
    ),
    "reasoning part": row(
        turns(Q, A, content=[{"type": "reasoning", "text": THOUGHT}, {"type": "text", "text": A["content"]}]),
        Q,
        REASONED,
    ),
    "thought part": row(turns(Q, A, content=[{"text": THOUGHT, "thought": True}, {"text": A["content"]}]), Q, REASONED),
    "think tags": row(
        pair("text", "target") | {"target": f"<think>\n{THOUGHT}\n</think>\n\n{A['content']}"}, Q, REASONED
    ),
    # what is trained
    "weight 0": row({"messages": [Q, {**A, "weight": 0}, Q2, A2]}, Q, A, Q2, A2, trained=(3,)),
    "weight 1": row({"messages": [Q, {**A, "weight": 1}, Q2, {**A2, "weight": 1.0}]}, Q, A, Q2, A2),
    "loss false": row({"messages": [Q, {**A, "loss": False}, Q2, A2]}, Q, A, Q2, A2, trained=(3,)),
    "train false": row({"messages": [Q, {**A, "train": False}, Q2, A2]}, Q, A, Q2, A2, trained=(3,)),
    "masked true": row({"messages": [Q, {**A, "masked": True}, Q2, A2]}, Q, A, Q2, A2, trained=(3,)),
    "the last answer switched off": row({"messages": [Q, A, Q2, {**A2, "weight": 0}]}, Q, A),
    "sharegpt with a switch": row(
        {
            "conversations": [
                {"from": "human", "value": Q["content"]},
                {"from": "gpt", "value": A["content"], "weight": 0},
                {"from": "human", "value": Q2["content"]},
                {"from": "gpt", "value": A2["content"]},
            ]
        },
        Q,
        A,
        Q2,
        A2,
        trained=(3,),
    ),
    "train_turns last": row(turns(Q, A, Q2, A2), Q, A, Q2, A2, trained=(3,), settings=(("train_turns", "last"),)),
    "train_turns marked": row(
        {"messages": [Q, {**A, "train": True}, Q2, A2]}, Q, A, settings=(("train_turns", "marked"),)
    ),
    # tools
    "OpenAI's call": calling({"messages": [ASK, {**CALLING, "content": None}], "tools": [TOOL]}, ASK, CALLING),
    "a call with its result": calling(
        {"messages": [ASK, CALLING, RESULT, SAID], "tools": [TOOL]}, ASK, CALLING, RESULT, SAID
    ),
    "arguments as text": calling(
        {"messages": [ASK, {**CALLING, "tool_calls": [call('{"city":"Oslo"}', id="c1")]}], "tools": [TOOL]},
        ASK,
        CALLING,
    ),
    "tools as text": calling({"messages": [ASK, CALLING], "tools": json.dumps([TOOL])}, ASK, CALLING),
    "tools bare": calling({"messages": [ASK, CALLING], "tools": [WEATHER]}, ASK, CALLING),
    "tools without a call": calling({"messages": [Q, A], "tools": [TOOL]}, Q, A),
    "narration and call": calling(
        {"messages": [ASK, {**CALLING, "content": "I will look."}], "tools": [TOOL], "parallel_tool_calls": False},
        ASK,
        {**CALLING, "content": "I will look."},
    ),
    "parallel calls": calling(
        {
            "messages": [
                ASK,
                {**CALLING, "tool_calls": [call(OSLO, id="1"), call(json.dumps(ROME), id="2")]},
                {**RESULT, "tool_call_id": "1"},
                {**RESULT, "tool_call_id": "2"},
                SAID,
            ],
            "tools": [TOOL],
        },
        ASK,
        {**CALLING, "tool_calls": [call(OSLO), call(ROME)]},
        RESULT,
        RESULT,
        SAID,
    ),
    "results in another order than the calls": calling(
        {
            "messages": [
                ASK,
                {**CALLING, "tool_calls": [call(OSLO, id="1"), call(ROME, id="2")]},
                {**RESULT, "tool_call_id": "2", "content": "30 in Rome"},
                {**RESULT, "tool_call_id": "1"},
                SAID,
            ],
            "tools": [TOOL],
        },
        ASK,
        {**CALLING, "tool_calls": [call(OSLO), call(ROME)]},
        RESULT,
        {**RESULT, "content": "30 in Rome"},
        SAID,
    ),
    "functions and function_call": calling(
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": None,
                    "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                },
                {"role": "function", "name": "weather", "content": RESULT["content"]},
                SAID,
            ],
            "functions": [WEATHER],
        },
        ASK,
        CALLING,
        RESULT,
        SAID,
    ),
    "sharegpt's function_call and observation": calling(
        spoken(
            ("human", ASK["content"]),
            ("function_call", '{"name": "weather", "arguments": {"city": "Oslo"}}'),
            ("observation", RESULT["content"]),
            ("gpt", SAID["content"]),
            tools=json.dumps([WEATHER]),
        ),
        ASK,
        CALLING,
        RESULT,
        SAID,
    ),
    "Hermes": calling(
        spoken(
            ("system", f"You are a function calling AI. <tools>[{json.dumps(TOOL)}]</tools>"),
            ("human", ASK["content"]),
            ("gpt", HERMES_CALL),
            ("tool", f"<tool_response>\n{RESULT['content']}\n</tool_response>"),
            ("gpt", SAID["content"]),
        ),
        ASK,
        CALLING,
        RESULT,
        SAID,
    ),
    "Hermes with a column": calling(
        spoken(("human", ASK["content"]), ("gpt", HERMES_CALL), tools=json.dumps([TOOL])), ASK, CALLING
    ),
    "xLAM": calling(
        {
            "id": 3,
            "query": ASK["content"],
            "tools": FUNCTION,
            "answers": '[{"name": "weather", "arguments": {"city": "Oslo"}}]',
        },
        ASK,
        CALLING,
    ),
    "Glaive": calling({"system": GLAIVE_SYSTEM, "chat": GLAIVE_CHAT}, ASK, CALLING, RESULT, SAID),
    "Glaive's first version": calling({"sample": GLAIVE_SAMPLE}, ASK, CALLING, RESULT, SAID),
    "ToolACE": calling(
        spoken(
            ("user", ASK["content"]),
            ("assistant", "[weather(city=\"Oslo\"), weather(city='Rome', days=2.5)]"),
            ("tool", RESULT["content"]),
            ("assistant", SAID["content"]),
            system=TOOLACE_SYSTEM,
        ),
        ASK,
        {**CALLING, "tool_calls": [call(OSLO), call(ROME)]},
        RESULT,
        SAID,
    ),
    "Anthropic": calling(
        {
            "messages": [
                ASK,
                {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "weather", "input": OSLO}]},
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "1", "content": RESULT["content"]}],
                },
                SAID,
            ],
            "tools": [TOOL],
        },
        ASK,
        CALLING,
        RESULT,
        SAID,
    ),
    "a call in its own turn": calling(
        spoken(
            ("human", ASK["content"]),
            ("gpt", "I will look."),
            ("function_call", '{"name": "weather", "arguments": {"city": "Oslo"}}'),
            tools=[TOOL],
        ),
        ASK,
        {**CALLING, "content": "I will look."},
    ),
    "a result as an object": calling(
        {"messages": [ASK, CALLING, {**RESULT, "content": {"celsius": 21}}, SAID], "tools": [TOOL]},
        ASK,
        CALLING,
        RESULT,
        SAID,
    ),
    "a call switched off": calling(
        {"messages": [ASK, {**CALLING, "weight": 0}, RESULT, SAID], "tools": [TOOL]},
        ASK,
        CALLING,
        RESULT,
        SAID,
        trained=(3,),
    ),
    # files
    "JSON Lines": text(f"{LINE}\n{LINE}\n", Q, A),
    "JSON Lines with commas": text(f"{LINE},\n{LINE},\n", Q, A),
    "objects of several lines": text(
        json.dumps(pair("text", "target"), indent=1) + "\n" + json.dumps(pair("text", "target"), indent=1), Q, A
    ),
    "trailing commas": text(f"[{LINE[:-1]},}},]", Q, A),
    "a container": text(json.dumps({"data": [pair("text", "target")]}), Q, A),
    "CSV": text("text,target\nHow far?,Nine miles.\n", Q, A),
    "CSV with a mark": text("\ufefftext,target\r\nHow far?,Nine miles.\r\n", Q, A),
    "CSV by semicolon with a comma in the header": text(
        "nr, alt;text;target\n1;How far?;Nine miles.\n", Q, A, settings=(("ignore_fields", ["nr, alt"]),)
    ),
    "TSV with pandas' index": text("\ttext\ttarget\n0\tHow far?\tNine miles.\n", Q, A),
    "two files put together": text("\ufefftext,target\n\ufeffHow far?,Nine miles.\n", Q, A),
    "cp1252": text(GERMAN_CSV.encode("cp1252"), *GERMAN),
    "latin-1": text(GERMAN_CSV.encode("latin-1"), *GERMAN),
    "GB18030": text(CHINESE_CSV.encode("gb18030"), *CHINESE),
    "Big5": text(TAIWAN_CSV.encode("big5"), *TAIWAN),
    "UTF-16 without a mark": text(GERMAN_CSV.encode("utf-16-le"), *GERMAN),
    "UTF-16": text(CHINESE_CSV.encode("utf-16"), *CHINESE),
    "packed": text(gzip.compress(LINE.encode()), Q, A),
}
