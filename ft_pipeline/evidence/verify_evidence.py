"""Check an exported evidence folder with Python's standard library alone: `verify_evidence.py [FOLDER [KEY.pub]]`.

Hashes and signature, the chains of the ledgers, each score and each deciding lead with its interval, and the choice
over the matrix are computed again. What is taken on trust is printed. Exit code 1: something does not agree.

FOLDER: by default that of this file. Who does not trust the folder runs a copy of this program from elsewhere, with
`python -I`. KEY.pub: the public key that you got from the project in another way. Without it, the key in the folder is
used, which proves only that the files belong together.
"""

import base64
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

STATEMENT = "statement.dsse.json"
KEY = "signing_key.pub"
DOCUMENTS = ("comparison.json", "decision.json")
ANSWERS, SETTINGS = "answers.jsonl", "settings/project.yaml"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://ft-pipeline.example/evidence/v1"
RULES = (
    "4: skew-corrected t over conversations, at least as wide as unseen failures may be, Wilson for shares; nats per "
    "byte; forgetting against the own base; rails"
)
"""The rules of the intervals that are computed here."""
HIGHEST = {"share": 1.0, "share of fields": 1.0, "0 to 1": 1.0, "0 to 100": 100.0}
"""By unit of a metric, the largest value. The smallest is 0."""
MEAN_OF_LABELS = "/macro_f1"
INVENTED = 2
"""Units that are added to a lead of two rates."""
LEVEL = 0.975
FAR = 2.5
TOLERANCE = 1e-6
"""Of a computed number: other machines round otherwise."""
PREVIOUS = "previous_sha256"
ON_TRUST = (
    "That the answers are what the models wrote, that the values of the metric are right for them, and which answers "
    "are one unit.",
    "That each look is in the ledger: one that was never written is in no chain.",
    "Intervals of single scores, p-values, the cells of the matrix, and claims on other things than the deciding "
    "metric (general questions, probes, faults, opinions, slices).",
)
Faults = list[str]


def check(folder: Path, key: Path | None = None) -> tuple[Faults, list[str]]:
    """Return what does not agree, and what is taken on trust, as sentences."""
    faults, trusted = Faults(), list[str]()
    try:
        _check(folder, key, faults, trusted)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as error:
        faults.append(f"The folder cannot be read as evidence ({type(error).__name__}: {error}).")
    return faults, [*trusted, *ON_TRUST]


def _check(folder: Path, key: Path | None, faults: Faults, trusted: list[str]) -> None:
    statement = _statement(folder, key, faults, trusted)
    faults += [*_check_files(folder, statement), *_check_ledgers(folder)]
    comparison, decision = (json.loads((folder / name).read_text(encoding="utf-8")) for name in DOCUMENTS)
    metric = comparison["primary_metric"]
    if comparison["rules"] != RULES:
        trusted.append("Scores and leads: they were computed by rules of another version.")
    elif metric.endswith(MEAN_OF_LABELS) or comparison["metrics"][metric].get("ideal") is not None:
        trusted.append(f"Scores and leads: {metric} is no mean of answers.")
    else:
        faults += _check_scores(folder, comparison)
    faults += _check_choice(comparison, decision["decision"], decision["matrix"])
    if max(_records(folder / "ledgers" / "exposures"), default=0) < (decision["exposure"].get("entry") or 0):
        faults.append("The decision knows of later looks than the ledger has: a record was dropped.")


# --- files and signature ----------------------------------------------------------------------------------------------


def _statement(folder: Path, key: Path | None, faults: Faults, trusted: list[str]) -> dict[str, Any]:
    """Return the statement about the files, after its signature was checked."""
    document = json.loads((folder / STATEMENT).read_text(encoding="utf-8"))
    used = key or folder / KEY
    if "statement" in document:
        trusted.append("The statement is not signed: who can write to the folder can change all of it.")
        if used.is_file():
            faults.append("The statement is not signed, although there is a key.")
        statement: dict[str, Any] = document["statement"]
    else:
        payload = base64.b64decode(document["payload"])
        if key is None:
            trusted.append("The key in the folder is the project's. Compare it with one that you got in another way.")
        if document["payloadType"] != PAYLOAD_TYPE:
            faults.append(f"The envelope is of type {document['payloadType']}.")
        if not _is_signed(document, payload, used.read_text(encoding="utf-8")):
            faults.append(f"The statement is not signed with the key in {used}.")
        statement = json.loads(payload)
    if (statement["_type"], statement["predicateType"]) != (STATEMENT_TYPE, PREDICATE):
        faults.append("The statement is not about evidence of a decision.")
    return statement


def _check_files(folder: Path, statement: Mapping[str, Any]) -> Iterator[str]:
    stated = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    for name in sorted({*DOCUMENTS, ANSWERS, SETTINGS} - stated.keys()):
        yield f"{name} is in no statement."
    for name in sorted(stated.keys() - present.keys()):
        yield f"{name} is missing."
    for name in sorted(present.keys() - stated.keys() - {STATEMENT}):
        yield f"{name} is in no statement: it was added."
    for name in sorted(stated.keys() & present.keys()):
        if present[name].is_symlink() or hashlib.sha256(present[name].read_bytes()).hexdigest() != stated[name]:
            yield f"{name} was changed."


def _records(ledger: Path) -> dict[int, Path]:
    """Return the records of a ledger by their numbers."""
    return {int(path.stem): path for path in ledger.glob("*.json") if path.stem.isdigit()}


def _check_ledgers(folder: Path) -> Iterator[str]:
    """Yield records that are missing, and those that do not have the hash of the one before."""
    for ledger in sorted((folder / "ledgers").glob("*")):
        records = _records(ledger)
        for before, number in pairwise([0, *sorted(records)]):
            if number != before + 1:
                yield f"ledgers/{ledger.name}/{before + 1:06d}.json is missing: a record was dropped."
            elif before:
                record = json.loads(records[number].read_text(encoding="utf-8"))
                if record.get(PREVIOUS) != hashlib.sha256(records[before].read_bytes()).hexdigest():
                    yield f"ledgers/{ledger.name}/{before:06d}.json was changed after the next one was written."


# --- scores and leads -------------------------------------------------------------------------------------------------


class Values:
    """A score of one row: sums over the units, and what each unit adds."""

    def __init__(self, answers: Sequence[Mapping[str, Any]], units: Sequence[str]) -> None:
        place = {unit: number for number, unit in enumerate(units)}
        self.numerators, self.denominators = [0.0] * len(units), [0.0] * len(units)
        for answer in answers:
            self.numerators[place[answer["unit"]]] += answer["numerator"]
            self.denominators[place[answer["unit"]]] += answer["denominator"]
        self.is_mean = all(answer["denominator"] == 1.0 for answer in answers)
        self.may_be_rate = self.is_mean and all(answer["numerator"] in (0.0, 1.0) for answer in answers)

    @property
    def value(self) -> float:
        return math.fsum(self.numerators) / math.fsum(self.denominators)

    def influence(self, invented: Sequence[float] = ()) -> list[float]:
        """Return what each unit adds to the value. invented: values of further units of one answer each."""
        numerators, denominators = [*self.numerators, *invented], [*self.denominators, *(1.0 for _ in invented)]
        ratio = math.fsum(numerators) / math.fsum(denominators)
        mean = math.fsum(denominators) / len(denominators)
        return [(n - ratio * d) / mean for n, d in zip(numerators, denominators, strict=True)]

    def ratio(self, invented: Sequence[float] = ()) -> float:
        """Return the value with further units."""
        return (math.fsum(self.numerators) + sum(invented)) / (math.fsum(self.denominators) + len(invented))


def _check_scores(folder: Path, comparison: Mapping[str, Any]) -> Iterator[str]:
    """Yield the scores and leads on the deciding metric that the answers do not give."""
    answers: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / ANSWERS).read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)
        answers.setdefault(answer["row"], []).append(answer)
    metric, scored = comparison["primary_metric"], {}
    for row in comparison["rows"]:
        if metric in row["scores"]:
            scored[row["name"]] = row["scores"][metric]["value"]
    if scored.keys() != answers.keys() or len({tuple(a["item"] for a in rows) for rows in answers.values()}) > 1:
        yield "The rows did not answer the same items."
        return
    units = sorted({answer["unit"] for rows in answers.values() for answer in rows})
    if len(units) > (comparison.get("clusters") or comparison["test_rows"]):
        yield f"The answers are of {len(units)} units, more than the comparison has."
    leads = {
        frozenset((claim["row"], claim["rival"])): claim
        for claim in comparison["claims"]
        if claim["kind"] == "lead" and claim.get("measure") == metric
    }
    values = {name: Values(rows, units) for name, rows in answers.items()}
    for name, value in scored.items():
        found = values[name].value
        if not _same(value, found):
            yield f"The answers of {name} give {metric} {found:.6g}, not {value:.6g}."
    for one, other in combinations(scored, 2):
        claim = leads.get(frozenset((one, other)))
        if claim is None:
            yield f"The lead between {one} and {other} is missing."
        elif claim.get("verdict") != "unknown":
            yield from _check_lead(claim, values, len(units), comparison)


def _check_lead(
    claim: Mapping[str, Any],
    values_of: Mapping[str, Values],
    units: int,
    comparison: Mapping[str, Any],
) -> Iterator[str]:
    name, metric = (
        f"The lead of {claim['row']} over {claim['rival']}",
        comparison["metrics"][comparison["primary_metric"]],
    )
    ours, theirs = values_of[claim["row"]], values_of[claim["rival"]]
    is_rate, highest = claim.get("count") == units + INVENTED, HIGHEST.get(metric["unit"])
    if is_rate and not (ours.may_be_rate and theirs.may_be_rate):
        yield f"{name} is called one of shares, and some answers are neither right nor wrong."
    sign = -1.0 if metric["lower_is_better"] else 1.0
    lead = sign * (ours.value - theirs.value)
    # A ratio of sums has no largest value, whatever its unit.
    values = lead_values(ours, theirs, sign, highest if ours.is_mean else None, is_rate=is_rate)
    low, high = bounds(values, highest)
    for key, number in {"value": lead, "low": low, "high": high}.items():
        if not _same(claim.get(key), number):
            yield f"{name}: {key} is {claim.get(key)}, and the answers give {number}."
    verdict = "shown" if low is not None and low > 0 else "refuted" if high is not None and high < 0 else "open"
    if verdict == "shown" and claim.get("because") == "noise" and lead <= comparison["scored_twice"]["spread"]:
        verdict = "open"
    if claim.get("verdict", "open") != verdict:
        yield f"{name} is said to be {claim.get('verdict', 'open')}, and is {verdict}."


def lead_values(ours: Values, theirs: Values, sign: float, highest: float | None, *, is_rate: bool) -> list[float]:
    """Return the values of a lead, one per unit. Two rates get two units more, in which only one of them is right.
    Others are stretched until the interval reaches as far as what no unit of the sample shows may be true."""
    if is_rate:
        pairs = zip(ours.influence((1.0, 0.0)), theirs.influence((0.0, 1.0)), strict=True)
        shift = ours.ratio((1.0, 0.0)) - theirs.ratio((0.0, 1.0))
        return [sign * (one - other + shift) for one, other in pairs]
    pairs = zip(ours.influence(), theirs.influence(), strict=True)
    found = [sign * (one - other + ours.value - theirs.value) for one, other in pairs]
    count = len(found)
    if count < 2:
        return found
    sizes = [each.value if highest is not None else FAR * _spread(each.influence()) for each in (ours, theirs)]
    least = (1 - (1 - LEVEL) ** (1 / count)) * max(sizes)
    mean, deviation, _ = moments(found)
    wanted = least * math.sqrt(count) / quantile(count - 1)
    if deviation >= wanted:
        return found
    apart = [value - mean for value in found]
    if not deviation:
        alternating = [1.0 if number % 2 == 0 else -1.0 for number in range(count)]
        apart = [value - math.fsum(alternating) / count for value in alternating]
    own = math.sqrt(math.fsum(value * value for value in apart) / (count - 1))
    return [mean + value * wanted / own for value in apart]


def bounds(values: Sequence[float], highest: float | None) -> tuple[float | None, float | None]:
    """Return the ends of the 95 % interval: the wider of Student's t and its skew-corrected form (Hall 1992)."""
    count = len(values)
    if count < 2:
        return None, None
    mean, deviation, skewness = moments(values)
    plain = quantile(count - 1) / math.sqrt(count)
    below, above = (_corrected(side, skewness, count) for side in (plain, -plain))
    low, high = mean - deviation * max(plain, below), mean - deviation * min(-plain, above)
    return (low, high) if highest is None else (max(-highest, low), min(highest, high))


def moments(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, standard deviation and skewness."""
    count = len(values)
    mean = math.fsum(values) / count
    centered = [value - mean for value in values]
    deviation = math.sqrt(math.fsum(value * value for value in centered) / (count - 1))
    if deviation <= 1e-12 * max(1.0, abs(mean)):
        return mean, 0.0, 0.0
    return mean, deviation, math.fsum(value**3 for value in centered) / count / deviation**3


def _corrected(side: float, skewness: float, count: int) -> float:
    if abs(skewness) < 1e-6:
        return side
    inner = 1 + skewness * (side - skewness / (6 * count))
    return 3 / skewness * (math.copysign(abs(inner) ** (1 / 3), inner) - 1)


def _spread(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


@cache
def quantile(freedom: int) -> float:
    """Return the quantile of Student's t at LEVEL, by bisection."""
    low, high = 0.0, 700.0
    for _ in range(200):
        middle = (low + high) / 2
        if 1 - 0.5 * _beta(freedom / 2, 0.5, freedom / (freedom + middle * middle)) < LEVEL:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function of 0 < x < 1."""
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, 1_000):
        even = m * (b - m) * x / ((a - 1 + 2 * m) * (a + 2 * m))
        d, c = 1 / (1 + even * d), 1 + even / c
        found *= c * d
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 1 + 2 * m))
        d, c = 1 / (1 + odd * d), 1 + odd / c
        found *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return found


def _same(stated: Any, found: float | None) -> bool:
    if stated is None or found is None:
        return stated is found
    return math.isclose(stated, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


# --- the choice -------------------------------------------------------------------------------------------------------


def _check_choice(
    comparison: Mapping[str, Any], decision: Mapping[str, Any], matrix: Mapping[str, Sequence[Mapping[str, str]]]
) -> Iterator[str]:
    """Yield where the decision does not follow from the matrix: what is released lacks nothing, and what lacks nothing,
    and was not rejected by a person, does not keep the champion where it is."""
    lacks = {
        row: [cell["requirement"] for cell in cells if cell["outcome"] != "holds"] for row, cells in matrix.items()
    }
    chosen = decision["name"]
    if decision["move"]:
        if chosen not in lacks:
            yield f"{chosen} is released, and was not examined."
        elif lacks[chosen]:
            yield f"{chosen} is released, and lacks: {', '.join(lacks[chosen])}."
    else:
        for row, missing in lacks.items():
            if not missing and not decision["failed"].get(row):
                yield f"{row} lacks nothing, and is not released."
    known = {row["name"] for row in comparison["rows"]}
    for row in sorted(lacks.keys() - known):
        yield f"{row} was examined, and is not in the comparison."


# --- the signature: ECDSA on P-256 with SHA-256 (FIPS 186-5), of a DSSE envelope --------------------------------------

PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
BASE = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
HEADER = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
"""Begins the DER form of each public key on P-256: the point follows."""
Point = tuple[int, int] | None


def _is_signed(envelope: Mapping[str, Any], payload: bytes, pem: str) -> bool:
    """Return whether a signature of the envelope is the key's."""
    kind = envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    return any(_verifies(signed, base64.b64decode(each["sig"]), _point_of(pem)) for each in envelope["signatures"])


def _point_of(pem: str) -> tuple[int, int] | None:
    body = "".join(line for line in pem.splitlines() if not line.startswith("-"))
    der = base64.b64decode(body)
    if not der.startswith(HEADER) or len(der) != len(HEADER) + 65 or der[len(HEADER)] != 4:
        return None
    x, y = (int.from_bytes(part, "big") for part in (der[-64:-32], der[-32:]))
    return (x, y) if (y * y - x**3 + 3 * x - B) % PRIME == 0 else None


def _verifies(message: bytes, signature: bytes, key: Point) -> bool:
    numbers = _two_integers(signature)
    if key is None or numbers is None or not all(0 < number < ORDER for number in numbers):
        return False
    r, s = numbers
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    inverse = pow(s, -1, ORDER)
    found = _add(_times(digest * inverse % ORDER, BASE), _times(r * inverse % ORDER, key))
    return found is not None and found[0] % ORDER == r


def _two_integers(der: bytes) -> tuple[int, int] | None:
    """Return the two numbers of a signature in DER form; None if it is none."""
    if len(der) < 8 or der[0] != 0x30 or der[1] != len(der) - 2:
        return None
    found, place = [], 2
    for _ in range(2):
        if place + 2 > len(der) or der[place] != 2:
            return None
        end = place + 2 + der[place + 1]
        found.append(int.from_bytes(der[place + 2 : end], "big"))
        place = end
    return (found[0], found[1]) if place == len(der) else None


def _add(one: Point, other: Point) -> Point:
    if one is None or other is None:
        return other if one is None else one
    if one[0] == other[0]:
        if (one[1] + other[1]) % PRIME == 0:
            return None
        slope = (3 * one[0] * one[0] - 3) * pow(2 * one[1], -1, PRIME)
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, PRIME)
    x = (slope * slope - one[0] - other[0]) % PRIME
    return x, (slope * (one[0] - x) - one[1]) % PRIME


def _times(number: int, point: Point) -> Point:
    found: Point = None
    while number:
        if number & 1:
            found = _add(found, point)
        point, number = _add(point, point), number >> 1
    return found


def main(arguments: Sequence[str]) -> int:
    """Print what was found. Return 1 if something does not agree."""
    folder = Path(arguments[0]) if arguments else Path(__file__).parent
    faults, trusted = check(folder, Path(arguments[1]) if len(arguments) > 1 else None)
    lines = [*(f"WRONG: {fault}" for fault in faults), *(f"on trust: {sentence}" for sentence in trusted)]
    lines.append("Something does not agree." if faults else "All that can be computed again agrees.")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
