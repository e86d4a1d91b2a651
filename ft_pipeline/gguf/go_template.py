"""Write the form of a prompt in Go's text/template, with the variables that Ollama gives to a template."""

from ft_pipeline.gguf.prompt_form import PromptForm

_UNKNOWN_ROLE = "turns of the roles system, user and assistant only"
_NO_SYSTEM = "conversations without a system prompt only"
"""Names of templates that do not exist. Ollama returns Go's error, which contains the name."""
_FIND_SYSTEM = (
    '{{ $system := false }}{{ range .Messages }}{{ if eq .Role "system" }}{{ $system = true }}{{ end }}{{ end }}'
)
_FIND_LAST = (
    "{{ $last := 0 }}{{ range $index, $turn := .Messages }}"
    '{{ if ne .Role "system" }}{{ $last = $index }}{{ end }}{{ end }}'
)
_SHORT_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
_TEXT = "{{ .Content }}"


def go_template(form: PromptForm, fixed_system: str | None = None) -> str:
    """Return the template that writes PromptForm.render of a conversation.

    fixed_system: the system prompt of every conversation, whatever the client's. Not for a form that refuses one.
    """
    system = _system(form, fixed_system)
    by_place = {
        "first_user": ("{{ $first := true }}", _when("$first", system), "{{ $first = false }}"),
        "last_user": (_FIND_LAST, _when("eq $index $last", system), ""),
    }
    before_turns, in_user_turn, after_user_turn = by_place.get(form.system_place, (system, "", ""))
    return "".join(
        [
            literal(form.start),
            _FIND_SYSTEM if "$system" in _condition(form) and fixed_system is None else "",
            before_turns,
            "{{ range $index, $turn := .Messages }}",
            '{{ if eq .Role "user" }}',
            literal(form.user.before) + in_user_turn + _TEXT + literal(form.user.after) + after_user_turn,
            '{{ else if eq .Role "assistant" }}',
            literal(form.assistant.before) + _TEXT + literal(form.assistant.after),
            f'{{{{ else if ne .Role "system" }}}}{_error(_UNKNOWN_ROLE)}{{{{ end }}}}{{{{ end }}}}',
            literal(form.generation),
        ]
    )


def literal(text: str) -> str:
    """Return a template that writes `text`: the text itself, or a quoted string of Go if a reader of templates or of
    Modelfiles would change it."""
    if is_printable(text) and "{{" not in text and '"""' not in text and not text.endswith("{"):
        return text
    return f'{{{{ "{"".join(map(_escaped, text))}" }}}}'


def is_printable(text: str) -> bool:
    """Return whether Ollama's reader of Modelfiles keeps all characters: others than these are left out there."""
    return all(character.isprintable() or character in "\n\r\t" for character in text)


def _escaped(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    if character.isprintable():
        return character
    return f"\\U{ord(character):08x}"


def _system(form: PromptForm, fixed_system: str | None) -> str:
    """Return the template of the system prompt, or of what is written without one."""
    default = literal(form.default_system)
    if form.system_place == "ignored":
        return default
    if form.system_place == "refused":
        return _when(_condition(form), _error(_NO_SYSTEM)) + default
    text = "{{ $.System }}" if fixed_system is None else literal(fixed_system)
    written = literal(form.system.before) + text + literal(form.system.after)
    return written if fixed_system is not None else _when(_condition(form), written, default)


def _condition(form: PromptForm) -> str:
    """Return the condition that there is a system prompt; empty if it makes no difference."""
    if form.system_place == "ignored":
        return ""
    return "$.System" if form.empty_is_none else "$system"


def _when(condition: str, then: str, otherwise: str = "") -> str:
    return f"{{{{ if {condition} }}}}{then}" + (f"{{{{ else }}}}{otherwise}" if otherwise else "") + "{{ end }}"


def _error(name: str) -> str:
    """Return an action that ends the request with an error: it calls a template that does not exist."""
    return f'{{{{ template "{name}" . }}}}'
