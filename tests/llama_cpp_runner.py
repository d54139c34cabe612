"""Run by a Python that has llama-cpp-python: a request as JSON on standard input, the result on standard output.

It imports nothing of lorakit, whose environment is another one.
"""

import json
import sys

import llama_cpp


def main():
    request = json.load(sys.stdin)
    opened = llama_cpp.Llama(
        request["model"],
        lora_path=request.get("lora"),
        n_ctx=request.get("context", 1024),
        n_threads=1,
        type_k=llama_cpp.GGML_TYPE_F32,  # by default keys and values are kept in f16
        type_v=llama_cpp.GGML_TYPE_F32,
        logits_all=True,
        verbose=False,
    )
    texts = [opened.tokenize(text.encode(), add_bos=False, special=True) for text in request.get("texts", [])]
    answers, logits = [], []
    for ids in request.get("prompts", []):
        opened.reset()
        opened.eval(ids)
        logits.append([float(number) for number in opened.scores[len(ids) - 1]])
        answers.append(greedy(opened, ids, request.get("tokens", 0), set(request.get("stops", []))))
    known = {"end": opened.token_eos(), "begins": bool(opened._model.add_bos_token())}
    json.dump({"texts": texts, "answers": answers, "logits": logits} | known, sys.stdout)


def greedy(opened, ids, most, stops):
    answer = []
    for token in opened.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0) if most else ():
        answer.append(token)
        if token in stops or len(answer) == most:
            break
    return answer


if __name__ == "__main__":
    main()
