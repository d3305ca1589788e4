"""Tokens are counted as the engine counts them."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from catalog.tokens import TokenCounter, build_counter, token_counter
from tests.support.model import add_model


def counter(template: str) -> TokenCounter:
    vocabulary = {character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return build_counter(tokenizer.to_str().encode(), template, {"eos_token": "</s>"})


def test_a_conversation_is_counted_with_its_template(database: None, tmp_path: Path) -> None:
    model = add_model(tmp_path / "model")
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Grüße"}]
    rendered = "<system>Be kind.\n<user>Grüße\n<assistant>"
    assert token_counter(model).count_chat(messages) == len(rendered.encode())
    assert token_counter(model).count_text("Grüße") == 7


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ eos_token }}{{ messages[0].content }}", "</s>hi"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% endfor %}x", "x"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hi"}]'),
        ("{% if tools %}tools{% endif %}", ""),
        ("{% if add_generation_prompt %}yes{% endif %}", "yes"),
    ],
)
def test_templates_may_use_what_templates_rely_on(template: str, expected: str) -> None:
    assert counter(template).count_chat([{"role": "user", "content": "hi"}]) == len(expected)


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('roles must alternate') }}", "{{ messages[7].content.x }}", "{{ messages.x.y }}",
     "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% include 'x' %}", "{{ messages.append(1) }}", ""],
)  # fmt: skip
def test_a_conversation_that_the_template_refuses_is_counted_without_it(template: str) -> None:
    assert counter(template).count_chat([{"role": "user", "content": "hi"}]) == len('[{"role":"user","content":"hi"}]')
