"""Make the models that tests and the demo serve; needs the extra `models`, and a few minutes.

    python tests/models/make_models.py            # all of them, beside this file
    python tests/models/make_models.py shapes     # only the tiny ones with random weights

The results are committed, so nobody has to run this to run the tests. `llama-v1` and `llama-v2`
are trained on the text in corpus.py; the others have random weights, in shapes of architectures.
`reference.json` in each directory holds what transformers answers greedily in float32.
"""

import copy
import json
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import corpus

HERE = Path(__file__).parent
END = "<|end|>"
BEGIN = "<|begin|>"
SPECIAL = (END, BEGIN, "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
CONTEXT_TOKENS = 2048
BATCH = 16
TOKENS_MIN = 4
MARGIN_MIN = 0.1
"""Logits closer than this are a tie; logits of the models here spread by about 3."""
SPLIT_TEXTS = (
    "Straße 12345, l'été — 🌍 isn't\n\n  it?",
    "I'VE  we'Ll 1234567890 3.14159 ½ x² ١٢٣ 二〇二六年",
    "def f(a_b):\n\treturn  a_b['k']  # ...!?\r\n\r\n\n  end   ",
    "<|user|>a weighbridge<|end|><|assistant|>",
    "café\u00a0CamelCaseHTML  \u200bzero ʼn e\u0301 ... ///\n/",
)
LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_REGEX = LLAMA3_REGEX.replace(r"\p{N}{1,3}", r"\p{N}")


def make_tokenizer(vocab: int, regex: str | None, *, begin: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE; `regex` None is GPT-2's own splitting, `begin` puts BEGIN first."""
    tokenizer = Tokenizer(models.BPE())
    if regex is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(regex), behavior="isolated", invert=False),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[AddedToken(text, special=True) for text in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.tokenizer_text(), trainer)
    if begin:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token="<|pad|>",
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = ("{{- bos_token }}\n" if begin else "") + corpus.chat_template()
    return fast


def samples(tokenizer: PreTrainedTokenizerFast, seed: int, answers: Mapping[str, str]):
    """Endless (token ids, labels); only what the assistant says is learnt."""
    assistant = tokenizer.convert_tokens_to_ids("<|assistant|>")
    end = tokenizer.convert_tokens_to_ids(END)
    for messages, tools in corpus.conversations(random.Random(seed), answers):
        text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        ids = tokenizer.encode(text, add_special_tokens=False)
        labels, speaking = [], False
        for token in ids:
            labels.append(token if speaking else -100)
            speaking = (speaking or token == assistant) and token != end
        yield ids, labels


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, answers: Mapping[str, str]):
    stream = samples(tokenizer, seed, answers)
    while True:
        # Sorted chunks keep padding small: lengths differ by a factor of twenty.
        chunk = sorted((next(stream) for _ in range(BATCH * 8)), key=lambda sample: len(sample[0]))
        groups = [chunk[at : at + BATCH] for at in range(0, len(chunk), BATCH)]
        random.Random(len(chunk[0][0])).shuffle(groups)
        for group in groups:
            length = max(len(ids) for ids, _ in group)
            ids = torch.full((BATCH, length), tokenizer.pad_token_id)
            labels = torch.full((BATCH, length), -100)
            for row, (sample, wanted) in enumerate(group):
                ids[row, : len(sample)] = torch.tensor(sample)
                labels[row, : len(wanted)] = torch.tensor(wanted)
            yield ids, labels


def train(model, tokenizer, answers: Mapping[str, str], *, steps: int, rate: float, seed: int):
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1
    )
    stream = batches(tokenizer, seed, answers)
    model.train()
    for step in range(steps):
        ids, labels = next(stream)
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.4f}", flush=True)  # noqa: T201 - a script


def reference(
    folder: Path, conversations: Sequence[Sequence[corpus.Message]], tokens_max: int
) -> list[dict[str, object]]:
    """Greedy answers in float32, with the prompt as the chat template renders it.

    An answer is cut before the first token that hardly beats the second best: another order of
    additions may turn it, and that says nothing of the weights. Read back from disk, so that it is
    the stored model that answers (a model that was cast has rounded rotary frequencies too).
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = []
    for messages in conversations:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens_max,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                output_logits=True,
                return_dict_in_generate=True,
            )
        best = torch.cat(out.logits).topk(2).values
        margins = (best[:, 0] - best[:, 1]).tolist()
        length = next((at for at, gap in enumerate(margins) if gap < MARGIN_MIN), len(margins))
        if length < TOKENS_MIN:
            continue
        tokens = out.sequences[0, ids.shape[1] :].tolist()[:length]
        answers.append(
            {
                "messages": list(messages),
                "prompt": prompt,
                "prompt_ids": ids[0].tolist(),
                "text": tokenizer.decode(tokens, skip_special_tokens=True),
                "ids": tokens,
                "finish_reason": "stop" if tokens[-1] == tokenizer.eos_token_id else "length",
            }
        )
    return answers


def save(
    model, tokenizer, folder: Path, dtype: torch.dtype, *, shard: str, conversations, tokens_max
):
    shutil.rmtree(folder, ignore_errors=True)
    model = copy.deepcopy(model).to(dtype)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(folder, max_shard_size=shard)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    tokenizer.save_pretrained(folder)
    answers = reference(folder, conversations, tokens_max)
    lines = ",\n".join(json.dumps(answer, ensure_ascii=False) for answer in answers)
    split = {text: tokenizer(text, add_special_tokens=False).input_ids for text in SPLIT_TEXTS}
    text = f'{{"answers": [\n{lines}\n],\n"tokens": {json.dumps(split, ensure_ascii=False)}}}\n'
    (folder / "reference.json").write_text(text, encoding="utf-8")
    for answer in answers:
        question = answer["messages"][-1]["content"]
        print(folder.name, len(answer["ids"]), repr(question), "->", repr(answer["text"][:120]))  # noqa: T201 - a script


def ask(question: str) -> list[corpus.Message]:
    return [{"role": "user", "content": question}]


def make_llamas() -> None:
    """Version one from nothing, version two fine-tuned from it: same shape, two other answers."""
    tokenizer = make_tokenizer(768, None, begin=False)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT_TOKENS,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            **ids,
        )
    )
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokenizer)} tokens")  # noqa: T201 - a script
    system: corpus.Message = {"role": "system", "content": corpus.SYSTEM}
    first = corpus.VERSION_QUESTION
    for name, answers, steps, rate, shard in (
        ("llama-v1", corpus.ANSWERS_V1, 800, 3e-3, "100MB"),
        ("llama-v2", corpus.ANSWERS_V2, 300, 1e-3, "1500KB"),
    ):
        train(model, tokenizer, answers, steps=steps, rate=rate, seed=len(name) + steps)
        follow_up = [*ask(first), {"role": "assistant", "content": answers[first]}]
        conversations = [
            *(ask(question) for question in answers),
            [system, *ask(first)],
            [*follow_up, *ask("What is an alias?")],
            ask("How do I bake bread?"),
        ]
        save(
            model,
            tokenizer,
            HERE / name,
            torch.float16,
            shard=shard,
            conversations=conversations,
            tokens_max=400,
        )


def make_shapes() -> None:
    """Random weights in the shapes of other architectures, spread so that few answers are ties."""
    plain = make_tokenizer(320, None, begin=False)
    llama3 = make_tokenizer(320, LLAMA3_REGEX, begin=True)
    qwen2 = make_tokenizer(320, QWEN2_REGEX, begin=False)
    small = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT_TOKENS,
        "initializer_range": 0.4,
    }
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    shapes = (
        ("qwen3-tiny", Qwen3ForCausalLM, Qwen3Config, qwen2, torch.bfloat16, "1GB",
         {"head_dim": 16, "tie_word_embeddings": True}),
        ("qwen2-tiny", Qwen2ForCausalLM, Qwen2Config, qwen2, torch.bfloat16, "1GB",
         {"tie_word_embeddings": True}),
        ("mistral-tiny", MistralForCausalLM, MistralConfig, plain, torch.float32, "120KB",
         {"tie_word_embeddings": False, "sliding_window": None, "head_dim": 12}),
        ("llama3-tiny", LlamaForCausalLM, LlamaConfig, llama3, torch.bfloat16, "1GB",
         {"tie_word_embeddings": False, "rope_parameters": scaling}),
    )  # fmt: skip
    for seed, (name, kind, config, tokenizer, dtype, shard, extra) in enumerate(shapes):
        torch.manual_seed(seed)
        # Three ids more than the tokenizer knows, as published models have.
        model = kind(
            config(
                **small,
                **extra,
                vocab_size=len(tokenizer) + 3,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        for parameter, value in model.named_parameters():
            # Zeros and ones, as libraries start them, would hide a bias or norm left out.
            if parameter.endswith(("bias", "norm.weight")):
                torch.nn.init.normal_(value, mean=float("norm" in parameter), std=0.2)
        questions = [*corpus.ANSWERS_V1, SPLIT_TEXTS[0]]
        save(
            model,
            tokenizer,
            HERE / name,
            dtype,
            shard=shard,
            conversations=[ask(question) for question in questions],
            tokens_max=24,
        )


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(2)
    make_shapes()
    if sys.argv[1:] != ["shapes"]:
        make_llamas()
