"""The part of Go's text/template that Modelfiles use, after the package's documentation: if, else if, range, eq."""

import re

PIECE = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)


def render(template, system, messages):
    """What Ollama makes of a conversation, each message a pair of role and content."""
    data = {"System": system, "Messages": [{"Role": role, "Content": content} for role, content in messages]}
    parts = PIECE.split(template)
    nodes, rest = parse([("text", part) if index % 2 == 0 else ("action", part) for index, part in enumerate(parts)])
    assert not rest
    return write(nodes, data, data)


def parse(tokens):
    """Nodes up to an end or else that belongs to an outer action, and what follows."""
    nodes = []
    while tokens:
        kind, text = tokens[0]
        word = text.split()[0] if kind == "action" else ""
        if word in {"end", "else"}:
            return nodes, tokens
        tokens = tokens[1:]
        if word in {"if", "range"}:
            node, tokens = parse_block(text, tokens)
            nodes.append(node)
        else:
            nodes.append((kind, text))
    return nodes, tokens


def parse_block(text, tokens):
    word, _, condition = text.partition(" ")
    inside, tokens = parse(tokens)
    closing, otherwise = tokens[0][1], []
    if closing.startswith("else if"):
        nested, tokens = parse_block(closing.removeprefix("else "), tokens[1:])
        return (word, condition, inside, [nested]), tokens
    if closing == "else":
        otherwise, tokens = parse(tokens[1:])
    assert tokens[0][1] == "end"
    return (word, condition, inside, otherwise), tokens[1:]


def write(nodes, dot, root):
    return "".join(write_node(node, dot, root) for node in nodes)


def write_node(node, dot, root):
    if node[0] == "text":
        return node[1]
    if node[0] == "action":
        return str(value(node[1], dot, root))
    word, condition, inside, otherwise = node
    found = value(condition, dot, root)
    if word == "range":
        return "".join(write(inside, item, root) for item in found) if found else write(otherwise, dot, root)
    return write(inside if found else otherwise, dot, root)


def value(expression, dot, root):
    words = re.findall(r'"[^"]*"|\S+', expression)
    if words[0] == "eq":
        return value(words[1], dot, root) == value(words[2], dot, root)
    assert len(words) == 1, expression
    if expression.startswith('"'):
        return expression.strip('"')
    assert re.fullmatch(r"\.[A-Z][a-z]+", expression), expression
    return dot[expression[1:]]
