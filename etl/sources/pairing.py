"""Which files of an unknown folder are images and which are their masks, and the patterns for them. Pure.

A path is cut into tokens. Files of one shape (same delimiters, folders deep and extension) form a group; a token that
is the same in all files of a group is literal, one with few values splits the group, any other tells cases apart.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from etl.manifests.patterns import compile_pattern

EXTENSION = re.compile(
    r"((?:\.(?:seg|ah))?\.(?:nii\.gz|nii|nrrd|mha|mhd|png|jpe?g|tiff?|bmp|gif|pgm|ppm|ppm\.gz|npy|npz|mat|dcm|txt|xml"
    r"|json))$",
    re.IGNORECASE,
)
_MASKS = """mask masks label labels labelstr labelsts labelsva seg segs segmentation segmentations gt groundtruth truth
annotation annotations annot manual roi rois contour contours target targets dseg msk"""
_IMAGES = """image images img imgs imaging imagestr imagests imagesva scan scans ct mri input orig original"""
MASK_WORDS, IMAGE_WORDS = frozenset(_MASKS.split()), frozenset(_IMAGES.split())
TEXTS = (".txt", ".xml", ".json")
FEW = 12
"""A token with at most so many values, each in several files, is a kind of file (image, mask, contrast), not a case."""


@dataclass(slots=True)
class Group:
    """Files of one shape: tokens by file; `fixed` the tokens that all share, by position."""

    extension: str
    files: dict[str, list[str]] = field(default_factory=dict)

    @property
    def fixed(self) -> dict[int, str]:
        """Position → token, where it is the same in all files; of one file, where it has no digit."""
        columns = list(zip(*self.files.values(), strict=True))
        alone = len(self.files) == 1
        return {
            n: column[0] for n, column in enumerate(columns)
            if len(set(column)) == 1 and not (alone and re.search(r"\d", column[0]))
        }

    @property
    def is_mask(self) -> bool:
        """Whether its name says that these are masks."""
        words = {word for token in self.fixed.values() for word in re.findall(r"[a-z]+", token.lower())}
        text = "".join(self.fixed.values()).lower().replace(" ", "")
        return self.extension.lower() in TEXTS or bool(words & MASK_WORDS) or "groundtruth" in text


@dataclass(frozen=True, slots=True)
class Pair:
    """Patterns of an image and its mask with the matched files, and the values of {label} if the mask has one."""

    image: str
    mask: str
    files: tuple[tuple[str, str], ...]
    labels: tuple[str, ...] = ()


def cut(path: str) -> tuple[list[str], str]:
    """The tokens of a path, delimiters among them, and its extension."""
    found = EXTENSION.search(path)
    stem = path[: found.start()] if found else path
    return re.split(r"([/_\-. ()+]+)", stem), found[1] if found else ""


def own_words(mask: str, image: str) -> str:
    """The words of a mask pattern's file name that its image's has not: what tells it from other masks."""
    known = {word.lower() for word in re.findall(r"[A-Za-z0-9]+", re.sub(r"\{.*?\}", "", image))}
    name = EXTENSION.sub("", re.sub(r"\{.*?\}", " ", mask.rsplit("/", 1)[-1]))
    return " ".join(word for word in re.findall(r"[A-Za-z0-9]+", name) if word.lower() not in known)


def groups(paths: Sequence[str]) -> list[Group]:
    """The files by shape, split where a token has few values in a file's own name or folder."""
    shapes: dict[tuple[object, ...], Group] = {}
    homes: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        homes[path.rsplit("/", 1)[-1]].append(path.rpartition("/")[0])
    for path in paths:
        folder, slash, name = path.rpartition("/")
        tokens, extension = cut(path)
        if _is_structure(homes[name]):  # one token, so that organs' names stay whole
            tokens = [*cut(folder)[0], slash, name[: len(name) - len(extension)]]
            shape: tuple[object, ...] = ("name", extension, *tokens[1::2], tokens[-1] if _is_word(tokens[-1]) else "")
        else:
            shape = ("", extension, len(tokens), *tokens[1::2])
        if extension:
            shapes.setdefault(shape, Group(extension)).files[path] = tokens
    return [part for group in shapes.values() for part in _split(group)]


def _is_structure(folders: Sequence[str]) -> bool:
    """Whether a file name in these folders names a structure: cases lie in an image's and in a mask's folder."""
    kinds = {frozenset(re.findall(r"[a-z]+", folder.lower())) & (MASK_WORDS | IMAGE_WORDS) for folder in folders}
    return len(folders) > 1 and len(kinds) == 1


def _is_word(token: str) -> bool:
    return not re.search(r"\d{3,}", token)


def _split(group: Group) -> Iterator[Group]:
    """Split a group by its first token that names kinds of files."""
    count = len(group.files)
    for position, column in enumerate(zip(*group.files.values(), strict=True)):
        values = Counter(column)
        kinds = any(set(re.findall(r"[a-z]+", value.lower())) & (MASK_WORDS | IMAGE_WORDS) for value in values)
        if 1 < len(values) <= FEW and len(values) < count and (kinds or min(values.values()) > 2):
            for value in values:
                part = {path: tokens for path, tokens in group.files.items() if tokens[position] == value}
                yield from _split(Group(group.extension, part))
            return
    yield group


def pairs(paths: Sequence[str], structures: Callable[[str], int] = lambda _: 0) -> list[Pair]:
    """The image and mask patterns found, those with most files first.

    `structures` looks into a file: how many labels it holds, 0 if it is no mask.
    """
    every = groups(paths)
    masks = [group for group in every if group.is_mask]
    images = [group for group in every if not group.is_mask]
    found = [pair for mask in masks if (pair := _best(mask, images)) is not None]
    if not found:
        masks = [group for group in images if structures(next(iter(group.files)))]
        others = [group for group in images if group not in masks]
        found = [pair for image in others for mask in masks if (pair := _match(image, mask)) is not None]
    if not found:  # no word says mask: the longer names then, of a picture or volume each
        found = [pair for mask in images if (pair := _best(mask, [i for i in images if _shorter(i, mask)])) is not None]
    every_file = dict.fromkeys(file for pair in found for file in pair.files)
    wide = [replace(pair, files=tuple(_covered(pair, every_file))) for pair in _joined(found, structures)]
    kept: list[Pair] = []
    for pair in sorted(wide, key=lambda pair: (-len(pair.files), pair.image)):
        if not any(set(pair.files) <= set(other.files) for other in kept):
            kept.append(pair)
    return kept


def _covered(pair: Pair, files: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Those of all matched files that the patterns of a pair match too."""
    image = compile_pattern(pair.image)
    mask = compile_pattern(pair.mask, image)
    return ((i, m) for i, m in files if image.match(i) is not None and mask.match(m) is not None)


def _shorter(image: Group, mask: Group) -> bool:
    return len(next(iter(image.files.values()))) < len(next(iter(mask.files.values())))


def _best(mask: Group, images: Sequence[Group]) -> Pair | None:
    """The pair of a mask group with the image group that has most of its cases."""
    best: tuple[int, float, Pair] | None = None
    for image in images:
        pair = _match(image, mask)
        if pair is not None:
            rank = (len(pair.files), -abs(len(image.files) - len({i for i, _ in pair.files})))
            if best is None or rank > best[:2]:
                best = (*rank, pair)
    return best[2] if best else None


def _match(image: Group, mask: Group) -> Pair | None:
    """Match by the tokens that vary: each of the image's must be in the mask's path, or be constant text there."""
    varying = [n for n in range(0, len(next(iter(image.files.values()))), 1) if n not in image.fixed]
    if not varying:
        return None
    own = [n for n in range(len(next(iter(mask.files.values())))) if n not in mask.fixed]
    links: dict[int, int] = {}
    keys = {tuple(tokens[n] for n in varying): path for path, tokens in image.files.items()}
    for position in own:
        scores = Counter({
            n: len({t[position] for t in mask.files.values()} & {t[n] for t in image.files.values()}) for n in varying
        })  # fmt: skip
        near, score = scores.most_common(1)[0]
        if score:
            links[position] = near
    if set(links.values()) != set(varying):
        return None
    first = {near: position for position, near in sorted(links.items(), reverse=True)}
    matched = []
    for path, tokens in mask.files.items():
        partner = keys.get(tuple(tokens[first[n]] for n in varying))
        if partner is not None:
            matched.append((partner, path))
    if not matched:
        return None
    names = _names(image, varying)
    free = [position for position in own if position not in links]
    labels = tuple(sorted({"".join(mask.files[path][position] for position in free) for _, path in matched}))
    texts = {position: names[near] for position, near in links.items()}
    if len(free) == 1:
        texts[free[0]] = "{label}"
    elif free:
        texts |= dict.fromkeys(free, "*")
    return Pair(_pattern(image, names), _pattern(mask, texts), tuple(matched), labels if len(free) == 1 else ())


def _names(image: Group, varying: Sequence[int]) -> dict[int, str]:
    """`{case}` for the token that tells most files apart and for those equal to it, other names for the rest."""
    columns = {n: tuple(tokens[n] for tokens in image.files.values()) for n in varying}
    main = max(varying, key=lambda n: len(set(columns[n])))
    names, known = {}, {columns[main]: "{case}"}
    for position in varying:
        known.setdefault(columns[position], "{part" + str(len(known)) + "}")
        names[position] = known[columns[position]]
    return names


def _pattern(group: Group, names: dict[int, str]) -> str:
    tokens = next(iter(group.files.values()))
    return "".join(names.get(n, token) for n, token in enumerate(tokens)) + group.extension


def _joined(found: Sequence[Pair], structures: Callable[[str], int]) -> Iterator[Pair]:
    """Mask groups over the same images, each of one structure, whose patterns differ in some words of one name become
    one with {label}.
    """
    by_image: dict[str, list[Pair]] = defaultdict(list)
    for pair in found:
        if structures(pair.files[0][1]) > 1:
            yield pair
        else:
            by_image[pair.image].append(pair)
    for own in by_image.values():
        whole = _one(own)
        if whole is not None:
            yield whole
            continue
        by_folder: dict[str, list[Pair]] = defaultdict(list)
        for pair in own:
            by_folder[pair.mask.rpartition("/")[0]].append(pair)
        for members in by_folder.values():
            joined = _one(members)
            yield from members if joined is None else [joined]


def _one(own: Sequence[Pair]) -> Pair | None:
    """Pairs as one whose {label} stands for what tells their mask patterns apart: words between two delimiters."""
    if len(own) < 2 or any(pair.labels for pair in own):
        return None
    pieces = [re.split(r"([/_\-.])", pair.mask) for pair in own]
    shortest = min(map(len, pieces))
    first = next((n for n in range(shortest) if len({p[n] for p in pieces}) > 1), shortest)
    last = next((n for n in range(shortest - first) if len({p[-1 - n] for p in pieces}) > 1), shortest - first)
    words = tuple("".join(p[first : len(p) - last]) for p in pieces)
    if not all(words) or any(re.search(r"[/{}]", word) for word in words):
        return None
    mask = "".join([*pieces[0][:first], "{label}", *pieces[0][len(pieces[0]) - last :]])
    return Pair(own[0].image, mask, tuple(file for pair in own for file in pair.files), words)
