"""Proposals without a model: words of a raw label against the names of the labels, with the source as context."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as Map
from dataclasses import dataclass, field

from etl.labels import text as label_text
from etl.labels.maps import Mapping, Ontology
from etl.labels.phrases import by_name
from etl.manifests.manifest import Manifest

_STEM = 5  # words that share so many letters are forms of one word: pancreas, pancreatic
LEAST = 0.45  # below this score nothing is proposed
_LEVEL = re.compile(r"([ctl])([0-9]{1,2})")
_LEVELS = {"c": ("cervical", 7), "t": ("thoracic", 13), "l": ("lumbar", 6)}
_MEANINGS = {
    "costa": "rib", "vena": "vein", "venacava": "inferior vena cava", "cava": "vena cava", "clavicula": "clavicle",
    "autochthon": "deep back muscle", "gluteus": "gluteal muscle", "nrv": "nerve", "glnd": "gland",
    "submand": "submandibular", "incisor": "tooth", "canine": "tooth", "premolar": "tooth", "molar": "tooth",
    "lv": "left ventricle", "rv": "right ventricle", "la": "left atrium", "ra": "right atrium",
    "myo": "left ventricular myocardium", "pz": "prostate peripheral zone", "tz": "prostate transition zone",
    "gtvp": "head and neck tumor", "gtvn": "metastatic neck lymph node", "gtvnd": "metastatic neck lymph node",
    "csf": "cerebrospinal fluid", "jawbone": "jaw", "pdac": "pancreatic", "hepatic": "liver", "renal": "kidney",
    "opticnerve": "optic nerve", "opticnrv": "optic nerve", "bronchie": "airway", "chiasma": "chiasm",
    "quadriceps": "thigh muscle", "sartorius": "thigh muscle", "thigh": "thigh muscle", "soleus": "calf muscle",
    "gastrocnemius": "calf muscle", "postcava": "inferior vena cava", "surrenalgland": "adrenal gland",
    "subdural": "intracranial hemorrhage", "epidural": "intracranial hemorrhage",
    "subarachnoid": "intracranial hemorrhage", "intraparenchymal": "intracranial hemorrhage",
    "intraventricular": "intracranial hemorrhage", "myocardial": "myocardium", "scar": "infarct",
    "stroke": "stroke lesion",
}  # fmt: skip
_DEVICES = frozenset(
    label_text.words(
        "instrument grasper scissors clipper clip hook irrigator trocar needle suture suturing thread tool probe stent "
        "implant bridge crown electrocautery bipolar bag suction clamp metal catheter artefact background"
    )
)
_BARE = frozenset(
    label_text.words(
        "tumor cancer lesion mass nodule cyst edema infection calcification effusion fracture scar cavity vessel "
        "artery vein duct gland muscle bone tract lobe segment part anterior posterior benign malignant "
        "foreground object"
    )
)  # words that mean another thing in another source
_NAMELESS = frozenset({"tissue", "unknown", "other", "undefined", "remainder"})
_FILLERS = frozenset(label_text.words("of the and in with including a cavity bone structure blood pool"))


@dataclass(frozen=True, slots=True)
class Context:
    """What may be known about a source when one of its names is read: nothing but names."""

    slug: str
    modality: str
    body_regions: tuple[str, ...] = ()
    siblings: tuple[str, ...] = ()
    hints: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A label (None: nothing fits), how sure from 0 to 1, and why."""

    label: str | None
    confidence: float
    why: str


@dataclass(frozen=True, slots=True)
class Matcher:
    """The names to match against: of the ontology, and raw labels of reviewed maps (normal form → labels, counted)."""

    ontology: Ontology
    exact: Map[str, str]
    memory: Map[str, Counter[str]]
    forms: tuple[tuple[str, frozenset[str]], ...]
    by_stem: Map[str, tuple[int, ...]]
    weight: Map[str, float] = field(default_factory=dict)


def context(manifest: Manifest) -> Context:
    """The context of a source, from its manifest; hints are the words of its slug and title."""
    hints = frozenset(label_text.words(f"{manifest.slug} {manifest.title} {manifest.detail or ''}"))
    return Context(manifest.slug, manifest.modality, manifest.body_regions, manifest.raw_labels(), hints)


def matcher(ontology: Ontology, reviewed: Iterable[Map[str, Mapping]] = ()) -> Matcher:
    """A matcher that knows the ontology's names and every approved raw label of the reviewed maps."""
    exact = by_name(ontology)
    memory: dict[str, Counter[str]] = defaultdict(Counter)
    for entries in reviewed:
        for raw, mapping in entries.items():
            bare = set(label_text.words(raw)) <= _BARE
            if not bare and (label := mapping.used()) is not None:
                memory[label_text.normal(raw)][label] += 1
    forms = [(label, _content(form)) for form, label in exact.items()]
    forms += [(label, _content(form)) for form, labels in memory.items() for label in labels]
    forms = sorted({(label, form) for label, form in forms if form}, key=lambda f: (f[0], sorted(f[1])))
    count = Counter(word for _, form in forms for word in form)
    weight = {word: 1 + math.log(len(forms) / n) for word, n in count.items()}
    by_stem: dict[str, list[int]] = defaultdict(list)
    for number, (_, form) in enumerate(forms):
        for stem in {word[:_STEM] for word in form}:
            by_stem[stem].append(number)
    stems = {stem: tuple(numbers) for stem, numbers in by_stem.items()}
    return Matcher(ontology, exact, dict(memory), tuple(forms), stems, weight)


def propose(known: Matcher, raw: str, about: Context) -> Proposal:
    """The best label for a raw label by rules on its words: exact name, reviewed name, then likeness."""
    form = label_text.normal(raw)
    parts = set(label_text.words(raw))
    if form in known.exact:
        return Proposal(known.exact[form], 0.97, "the name or a synonym of the label")
    if len(known.memory.get(form, ())) == 1:
        return Proposal(next(iter(known.memory[form])), 0.95, "the same name in a reviewed map")
    if parts & _DEVICES or parts & _NAMELESS:
        return Proposal(None, 0.8, "a device or no structure")
    ranked = rank(known, raw, about)
    if not ranked or ranked[0][1] < LEAST:
        return Proposal(None, 0.5, "no name of a label is like it")
    label, score = ranked[0]
    gap = score - (ranked[1][1] if len(ranked) > 1 else 0)
    return Proposal(label, round(0.2 + 0.3 * score + 0.5 * min(gap, 0.3), 2), "alike in words and context")


def rank(known: Matcher, raw: str, about: Context) -> list[tuple[str, float]]:
    """(label, likeness from 0 to 1), best first; labels of the other side are left out."""
    query = _query(raw)
    told = label_text.side(label_text.words(raw)) or _expanded_side(raw)
    around = _around(raw, about)
    best: dict[str, float] = {}
    near = sorted({number for word in query for number in known.by_stem.get(word[:_STEM], ())})
    for label, form in (known.forms[number] for number in near):
        factor = _side_factor(known.ontology, label, told) * _place_factor(known.ontology, label, about)
        if factor:
            score = factor * _likeness(query, form, around, known.weight)
            best[label] = max(best.get(label, 0.0), score)
    for label, n in known.memory.get(label_text.normal(raw), Counter()).items():
        best[label] = best.get(label, 0.0) + 0.1 * min(n, 3)
    return sorted(((label, min(score, 1.0)) for label, score in best.items() if score), key=lambda s: (-s[1], s[0]))


def _content(form: str) -> frozenset[str]:
    parts = [w for w in form.split() if w not in ("left", "right")]
    rich = frozenset(w for w in parts if w not in _FILLERS)
    return rich or frozenset(parts)


def _query(raw: str) -> frozenset[str]:
    """The words of a raw label with abbreviations and Latin spelled out, levels as regions, numbers dropped."""
    found: list[str] = []
    parts = label_text.words(raw)
    levels = [m for w in parts if (m := _LEVEL.fullmatch(w)) and int(m[2]) <= _LEVELS[m[1]][1]]
    if len(levels) == 2 or (levels and "/" in raw):
        return frozenset({"intervertebral", "disc"})
    for word in parts:
        level = _LEVEL.fullmatch(word)
        if level and int(level[2]) <= _LEVELS[level[1]][1]:
            found += [_LEVELS[level[1]][0], "vertebra"]
        elif not word.isdigit() and len(word) > 1:
            found += label_text.words(_MEANINGS.get(word, word))
    return _content(" ".join(found))


def _expanded_side(raw: str) -> str | None:
    spelled = " ".join(_MEANINGS.get(w, "") for w in label_text.words(raw))
    return label_text.side(label_text.words(spelled))


def _around(raw: str, about: Context) -> frozenset[str]:
    """The words of the siblings and of the source's own name: where a bare `tumor` finds its organ."""
    names = [w for name in about.siblings if name != raw for w in label_text.words(name)]
    return frozenset(names) | about.hints


def _side_factor(ontology: Ontology, name: str, told: str | None) -> float:
    label = ontology.labels[name]
    own = label.laterality if label.laterality != "none" else label_text.side(label_text.words(name))
    if told is None:
        return 0.6 if label.laterality != "none" else 0.9 if own else 1.0
    return 1.0 if own == told else 0.0 if own else 0.7


def _place_factor(ontology: Ontology, name: str, about: Context) -> float:
    region = ontology.categories[ontology.labels[name].category].body_region
    return 1.0 if not about.body_regions or region in about.body_regions else 0.8


def _likeness(
    query: frozenset[str], form: frozenset[str], around: frozenset[str], weight: Map[str, float]
) -> float:
    """Twice the shared weight over the whole; a word of the label that only the context has counts 0.7."""
    shared = sum(_weight(q, weight) * _best(q, form) for q in query)
    if not shared:
        return 0.0
    known = sum(_weight(f, weight) * max(_best(f, query), 0.7 * _best(f, around)) for f in form)
    whole = sum(_weight(w, weight) for w in query) + sum(_weight(w, weight) for w in form)
    return (shared + known) / whole


def _weight(word: str, weight: Map[str, float]) -> float:
    return weight.get(word, 3.0)


def _best(word: str, others: Iterable[str]) -> float:
    return max((_alike(word, other) for other in others), default=0.0)


def _alike(one: str, other: str) -> float:
    if one == other:
        return 1.0
    return 0.8 if min(len(one), len(other)) >= _STEM and one[:_STEM] == other[:_STEM] else 0.0


def candidates(ranked: Sequence[tuple[str, float]], more: Sequence[str] = (), n: int = 20) -> list[str]:
    """The closed list for a model: the best of each ranking, taken in turn, each label once."""
    first = [label for label, _ in ranked]
    mixed = [label for pair in zip(first, more, strict=False) for label in pair] + first + list(more)
    return list(dict.fromkeys(mixed))[:n]
