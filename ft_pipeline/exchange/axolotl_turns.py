"""Keys and roles of turns in Axolotl's data sets."""

from typing import Any

from ft_pipeline.exchange.data_files import DataSet

DEFAULT_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
_MAPPED = ("role", "content", "reasoning_content", "weight")
"""The properties of a turn that a sidecar can map."""
OUR_ROLES = {"user": "human", "assistant": "gpt", "system": "system", "tool": "tool"}


def turn_keys(entry: dict[str, Any]) -> dict[str, str]:
    """Return the template's property → the turn's key."""
    given = entry.get("message_property_mappings")
    keys = {str(ours): str(theirs) for ours, theirs in given.items()} if isinstance(given, dict) else {}
    for old, ours in (("message_field_role", "role"), ("message_field_content", "content")):
        if entry.get(old):
            keys[ours] = str(entry[old])
    return keys


def map_turn_keys(data: DataSet, entry: dict[str, Any], keys: dict[str, str]) -> None:
    """Map the keys of turns that ours does not know already."""
    targets = {"role": ("from", "role"), "content": ("value", "content")}
    for name, known in targets.items():
        if keys.get(name) and keys[name] not in known:
            data.columns[keys[name]] = known[0]
    thinking = entry.get("field_thinking") or keys.get("reasoning_content")
    if thinking and thinking != "reasoning_content":
        data.columns[str(thinking)] = "reasoning_content"
    if keys.get("weight") and keys["weight"] != "weight":
        data.columns[keys["weight"]] = "weight"


def roles_of(entry: dict[str, Any], has_role_key: bool) -> dict[str, str]:
    """Return the sidecar's roles: those that ours does not know already."""
    given = entry.get("roles")
    known = {**DEFAULT_ROLES, **({"tool": "tool"} if has_role_key else {})}
    pairs = [(target, sources) for target, sources in given.items()] if isinstance(given, dict) else []
    if not pairs:
        pairs = [("tool", ["tool"])]
    roles = {}
    for target, sources in pairs:
        for source in sources if isinstance(sources, list) else [sources]:
            role = OUR_ROLES.get(str(target), DEFAULT_ROLES.get(str(target)))
            if role is not None and known.get(str(source)) != role:
                roles[str(source)] = role
    return roles


def lost_of_turns(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (theirs, effect) of roles and keys of turns that have no counterpart."""
    lost = []
    roles = entry.get("roles")
    for target in roles if isinstance(roles, dict) else ():
        if str(target) not in OUR_ROLES and str(target) not in DEFAULT_ROLES:
            lost.append(
                (f"roles: {target}", "Ours has no such role. Rows with it are quarantined, unless a sidecar maps it.")
            )
    for ours, theirs in turn_keys(entry).items():
        if ours not in _MAPPED and ours != theirs:
            lost.append((f"message_property_mappings: {ours}: {theirs}", "Ours does not read this key of a turn."))
    return lost
