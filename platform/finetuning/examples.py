"""What a row teaches: a conversation, a completion or a preference, checked member by member."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from finetuning.problems import RowError, pointer

ROLES = ("system", "developer", "user", "assistant", "tool")
_MESSAGE_FIELDS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "weight", "refusal"})
_ROW_FIELDS = {
    "messages": frozenset({"messages", "tools", "parallel_tool_calls", "metadata"}),
    "prompt": frozenset({"prompt", "completion", "metadata"}),
    "input": frozenset({"input", "preferred_output", "non_preferred_output", "metadata"}),
}
FORMATS = {"messages": "chat", "prompt": "completion", "input": "preference"}
"""The member by which a row's format is known, and the format's name."""


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A conversation whose answers are learnt, each with its weight."""

    messages: list[dict[str, Any]]
    """As the API takes them, without ``weight``."""
    weights: list[float]
    """Of each message; 0 is not learnt, and what is not the assistant's has 0."""
    tools: list[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A text and how it goes on."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A conversation, an answer that is wanted and one that is not."""

    messages: list[dict[str, Any]]
    preferred: dict[str, Any]
    rejected: dict[str, Any]
    tools: list[Any] | None = None


Example = Chat | Completion | Preference


def check_row(value: dict[str, Any]) -> tuple[Example | None, list[RowError]]:
    """The example of a row, or everything that is wrong with it."""
    check = _Check()
    example = check.row(value)
    return (None, check.errors) if check.errors else (example, [])


class _Check:
    """Goes through one row and notes what is wrong, instead of stopping at the first."""

    def __init__(self) -> None:
        self.errors: list[RowError] = []

    def row(self, value: dict[str, Any]) -> Example | None:
        """By the row's format."""
        known = next((name for name in FORMATS if name in value), None)
        if known is None:
            self._add(
                "unknown_row_format",
                "",
                "The row has neither 'messages', nor 'prompt' and 'completion', nor 'input'",
                'Write {"messages": [...]}; for rows of your own columns choose a recipe or give a column mapping',
            )
            return None
        for name in value.keys() - _ROW_FIELDS[known]:
            self._unknown(name, pointer(name))
        match known:
            case "messages":
                return self._chat(value)
            case "prompt":
                return self._completion(value)
            case _:
                return self._preference(value)

    def _chat(self, value: dict[str, Any]) -> Chat | None:
        tools = self._tools(value.get("tools"), "/tools")
        messages = self._messages(value["messages"], "/messages", tools)
        if not messages:
            return None
        last = len(messages) - 1
        answers = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
        if not answers:
            self._add(
                "no_assistant_message",
                "/messages",
                "The conversation has no message of the assistant, so there is nothing to learn",
                'End it with the answer: {"role": "assistant", "content": "..."}',
            )
        elif answers[-1] != last:
            self._add(
                "last_not_assistant",
                pointer("messages", last),
                f"The conversation ends with the role '{_shown(messages[-1].get('role'))}'",
                "Remove what comes after the last answer, or add the answer to it",
            )
        weights = [self._weight(message, index) for index, message in enumerate(messages)]
        if answers and not any(weights[index] for index in answers):
            self._add(
                "nothing_trained",
                "/messages",
                "Every answer of the row has the weight 0",
                "Give at least one answer the weight 1, or remove the row",
            )
        plain = [{name: part for name, part in message.items() if name != "weight"} for message in messages]
        return Chat(messages=plain, weights=weights, tools=tools)

    def _completion(self, value: dict[str, Any]) -> Completion | None:
        for name in ("prompt", "completion"):
            if not isinstance(value.get(name), str):
                self._add(
                    "invalid_type",
                    pointer(name),
                    f"'{name}' must be a string",
                    'Write {"prompt": "...", "completion": "..."}',
                )
            else:
                self._characters(value[name], pointer(name))
        if value.get("completion") == "":
            self._empty("/completion")
        if self.errors:
            return None
        return Completion(prompt=value["prompt"], completion=value["completion"])

    def _preference(self, value: dict[str, Any]) -> Preference | None:
        given = value["input"]
        if not isinstance(given, dict) or "messages" not in given:
            self._add(
                "invalid_type", "/input", "'input' must hold 'messages'", 'Write {"input": {"messages": [...]}, ...}'
            )
            return None
        for name in given.keys() - {"messages", "tools", "parallel_tool_calls"}:
            self._unknown(name, pointer("input", name))
        tools = self._tools(given.get("tools"), "/input/tools")
        messages = self._messages(given["messages"], "/input/messages", tools)
        if messages and messages[-1].get("role") not in ("user", "tool"):
            self._add(
                "last_not_user",
                pointer("input", "messages", len(messages) - 1),
                f"The input ends with the role '{_shown(messages[-1].get('role'))}', so there is nothing to answer",
                "End the input with the question; the answers belong into the two outputs",
            )
        wanted, unwanted = (self._output(value, name, tools) for name in ("preferred_output", "non_preferred_output"))
        if wanted and unwanted and _spoken(wanted) == _spoken(unwanted):
            self._add(
                "identical_outputs",
                "/non_preferred_output",
                "Both outputs are the same, so nothing is preferred",
                "Write two outputs that differ, or remove the row",
            )
        if self.errors or messages is None or wanted is None or unwanted is None:
            return None
        return Preference(messages=messages, preferred=wanted, rejected=unwanted, tools=tools)

    def _output(self, value: dict[str, Any], name: str, tools: list[Any] | None) -> dict[str, Any] | None:
        output = value.get(name)
        if not isinstance(output, list) or len(output) != 1:
            self._add(
                "invalid_output",
                pointer(name),
                f"'{name}' must be an array of one message",
                f'Write "{name}": [{{"role": "assistant", "content": "..."}}]',
            )
            return None
        messages = self._messages(output, pointer(name), tools)
        if not messages:
            return None
        if messages[0].get("role") != "assistant":
            self._add(
                "last_not_assistant", pointer(name, 0), f"'{name}' must be the assistant's", "Set its role to assistant"
            )
        return messages[0]

    def _messages(self, messages: object, where: str, tools: list[Any] | None) -> list[dict[str, Any]] | None:
        if not isinstance(messages, list):
            self._add("invalid_type", where, "'messages' must be an array", 'Write {"messages": [{"role": ...}]}')
            return None
        if not messages:
            self._add("empty_messages", where, "'messages' holds no message", "Fill it, or remove the row")
            return None
        calls: set[str] = set()
        checked = []
        for index, message in enumerate(messages):
            at = f"{where}/{index}"
            if not isinstance(message, dict):
                self._add(
                    "invalid_message", at, "A message must be an object", 'Write {"role": "user", "content": "..."}'
                )
                return None
            checked.append(message)
            self._message(message, at, is_first=index == 0)
            if message.get("tool_calls") is not None:
                calls |= self._tool_calls(message["tool_calls"], f"{at}/tool_calls", tools)
            if message.get("role") == "tool" and message.get("tool_call_id") not in calls:
                self._add(
                    "unmatched_tool_call",
                    f"{at}/tool_call_id",
                    "The tool's answer belongs to no call before it",
                    "Give it the 'id' of the assistant's call in 'tool_call_id'",
                )
        return checked

    def _message(self, message: dict[str, Any], at: str, *, is_first: bool) -> None:
        role = message.get("role")
        if role not in ROLES:
            self._add(
                "invalid_role",
                f"{at}/role",
                f"'{_shown(role)}' is no role" if role is not None else "The message has no role",
                f"Use one of {', '.join(ROLES)}",
            )
        elif role in ("system", "developer") and not is_first:
            self._add(
                "system_not_first",
                f"{at}/role",
                f"A message of the role '{role}' stands in the middle of the conversation",
                "Put the instructions into one message at the beginning",
            )
        if "function_call" in message:
            self._add(
                "deprecated_functions",
                f"{at}/function_call",
                "'function_call' is not served",
                "Write 'tool_calls', and the functions as 'tools'",
            )
        for name in message.keys() - _MESSAGE_FIELDS - {"function_call"}:
            self._unknown(name, at + pointer(name))
        self._content(message, at)

    def _content(self, message: dict[str, Any], at: str) -> None:
        content = message.get("content")
        if content is None:
            if message.get("tool_calls") is None:
                self._add(
                    "missing_content", f"{at}/content", "The message has no 'content'", "Write its text into 'content'"
                )
        elif isinstance(content, str):
            if not content.strip() and message.get("role") in ("user", "assistant") and not message.get("tool_calls"):
                self._empty(f"{at}/content")
            self._characters(content, f"{at}/content")
        elif isinstance(content, list):
            for index, part in enumerate(content):
                if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                    self._add(
                        "unsupported_content",
                        f"{at}/content/{index}",
                        "Only parts of type 'text' can be learnt",
                        "Remove images and sound, or write 'content' as a string",
                    )
                else:
                    self._characters(part["text"], f"{at}/content/{index}/text")
            if not content:
                self._empty(f"{at}/content")
        else:
            self._add(
                "invalid_type", f"{at}/content", "'content' must be a string or an array of parts", "Write a string"
            )

    def _tools(self, tools: object, where: str) -> list[Any] | None:
        if tools is None:
            return None
        if not isinstance(tools, list) or not tools:
            self._add("invalid_tools", where, "'tools' must be a non-empty array", "Leave it out, or list the tools")
            return None
        for index, tool in enumerate(tools):
            function = tool.get("function") if isinstance(tool, dict) else None
            if not isinstance(function, dict) or tool.get("type") != "function" or not _is_name(function.get("name")):
                self._add(
                    "invalid_tools",
                    f"{where}/{index}",
                    "A tool must be a function with a name",
                    'Write {"type": "function", "function": {"name": "...", "parameters": {...}}}',
                )
                return None
            if not isinstance(function.get("parameters", {}), dict):
                self._add(
                    "invalid_tools",
                    f"{where}/{index}/function/parameters",
                    "'parameters' must be a JSON schema",
                    'Write {"type": "object", "properties": {...}}',
                )
        return tools

    def _tool_calls(self, calls: object, where: str, tools: list[Any] | None) -> set[str]:
        """Ids of the calls."""
        if not isinstance(calls, list) or not calls:
            self._add(
                "invalid_tool_call", where, "'tool_calls' must be a non-empty array", "Leave it out, or list the calls"
            )
            return set()
        known = {tool["function"]["name"] for tool in tools or ()}
        ids = set()
        for index, call in enumerate(calls):
            at = f"{where}/{index}"
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict) or not _is_name(call.get("id")) or not _is_name(function.get("name")):
                self._add(
                    "invalid_tool_call",
                    at,
                    "A call must have an id and a function with a name",
                    'Write {"id": "call_1", "type": "function", "function": {"name": "...", "arguments": "{}"}}',
                )
                continue
            ids.add(call["id"])
            if function["name"] not in known:
                self._add(
                    "unknown_tool",
                    f"{at}/function/name",
                    f"'{_shown(function['name'])}' is none of the row's tools",
                    "List it in the row's 'tools', or correct its name",
                )
            if not _is_json_object(function.get("arguments")):
                self._add(
                    "invalid_tool_arguments",
                    f"{at}/function/arguments",
                    "'arguments' must be a string that holds a JSON object",
                    'Write "{\\"city\\": \\"Paris\\"}"',
                )
        return ids

    def _weight(self, message: dict[str, Any], index: int) -> float:
        weight = message.get("weight")
        if message.get("role") != "assistant":
            if weight is not None:
                self._add(
                    "invalid_weight",
                    pointer("messages", index, "weight"),
                    "Only messages of the assistant have a weight",
                    "Remove it: what others say is never learnt",
                )
            return 0.0
        if weight is None:
            return 1.0
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
            self._add(
                "invalid_weight",
                pointer("messages", index, "weight"),
                "'weight' must be a number from 0 to 1",
                "Write 1 to learn the answer and 0 to leave it out",
            )
            return 1.0
        return float(weight)

    def _characters(self, text: str, where: str) -> None:
        if "\0" in text:
            self._add("invalid_characters", where, "The text holds a NUL character", "Remove the character")

    def _empty(self, where: str) -> None:
        self._add("empty_content", where, "The text is empty", "Write the text, or remove the row")

    def _unknown(self, name: str, where: str) -> None:
        self._add(
            "unknown_field",
            where,
            f"'{_shown(name)}' is no member that is known here",
            "Remove it, or correct its name",
        )

    def _add(self, code: str, where: str, message: str, fix: str) -> None:
        self.errors.append(RowError(code, where, message, fix))


def texts_of(example: Example) -> Iterator[tuple[str, str]]:
    """Every text of an example with its role, in order."""
    match example:
        case Chat():
            for message in example.messages:
                yield message["role"], content_text(message.get("content"))
        case Completion():
            yield "user", example.prompt
            yield "assistant", example.completion
        case Preference():
            for message in (*example.messages, example.preferred, example.rejected):
                yield message["role"], content_text(message.get("content"))


def content_text(content: Any) -> str:
    """The text of a message's content, parts joined as the engine joins them."""
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""


def _spoken(message: dict[str, Any]) -> tuple[str, bytes]:
    return content_text(message.get("content")), orjson.dumps(message.get("tool_calls"))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256


def _is_json_object(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _shown(value: object) -> str:
    """A customer's text as a message may quote it."""
    return "".join(character if character.isprintable() else "?" for character in str(value)[:60])
