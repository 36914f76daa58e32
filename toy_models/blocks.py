"""Taking a frame apart into blocks that are orthogonal to each other: the split that explains the cosines best.

One threshold on |cosine| does not do for noisy frames: cosines between blocks get as large as those inside. So all
splits along three dendrograms of the features are compared by likelihood. Every pair of features has a cosine c. Let s
be the noise of a cosine and r the dimensions that the frame spans:

    in a block that has a name:  c ~ Normal(the polytope's cosine, s²)
    in two different blocks:     c ~ Normal(0, s²)
    in a block without a name:   c ~ Normal(0, 1/r), two random directions in r dimensions

The *gain* of a split is the logarithm of its likelihood over that of "all directions random", in nats. The best split
along a dendrogram follows from its leaves upwards; s is the level of ``NOISE`` at which the best split is best.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from scipy.special import gammaln

from minisae.backend import Array
from toy_models.matching import Fit, fits
from toy_models.polytopes import LARGEST

NOISE = np.array([0.03, 0.06, 0.1, 0.15, 0.2])
"""Levels of s that are tried; entries of noise σ on unit vectors move their cosines by up to √2 σ."""
PRICE = 8.0
"""What a block without a name costs, in nats: such pieces need a reason, and names are tried first (:func:`supported`
takes back those that chance explains)."""


class Block(NamedTuple):
    """Some features, and the polytope they form if they do."""

    members: tuple[int, ...]
    fit: Fit | None


class Split(NamedTuple):
    """A frame taken apart."""

    blocks: list[Block]
    gains: Array
    """ln of the likelihood over that of "all directions random", at each level of noise ``(n_noise,)``."""

    @property
    def gain(self) -> float:
        """The largest gain."""
        return float(self.gains.max())

    @property
    def noise(self) -> float:
        """s, the noise of a cosine that explains best."""
        return float(NOISE[self.gains.argmax()])


class _Search(NamedTuple):
    """What stays the same while splits are compared."""

    C: Array
    rank: int
    limit: float
    names: dict[tuple[int, ...], Fit | None]
    """The best name of each set of features that was asked for."""
    exchanges: dict[tuple[tuple[int, ...], tuple[int, ...]], list[tuple[list[Block], Array]]]
    """What was found for two blocks: others in their place, and what they gain."""


NOTHING = Block((), None)


def span(C: Array) -> int:
    """Return the dimensions that unit vectors of cosines ``C (k, k)`` span, but for noise: eigenvalues > λ_max / 10."""
    eigenvalues = np.linalg.eigvalsh(C)  # (k,)
    return int((eigenvalues > 0.1 * eigenvalues[-1]).sum())


def room(C: Array) -> int:
    """Return the most dimensions that names for unit vectors of cosines ``C (k, k)`` may claim: eigenvalues > 0.1.

    A block that is a tight frame has the eigenvalue k/d ≥ 1, d times. (:func:`span` sees less beside a large one.)
    """
    return int((np.linalg.eigvalsh(C) > 0.1).sum())


def pair_gain(pairs: float, squares: float, misfit: float, rank: int) -> Array:
    """Return the gain of ``pairs`` cosines with Σ c² = ``squares`` that miss their expected values by Σ = ``misfit``.

    ``(n_noise,)``: at each level of noise.
    """
    return pairs * -np.log(NOISE * rank**0.5) + rank * squares / 2 - misfit / (2 * NOISE**2)


def split(C: Array, *, limit: float) -> Split:
    """Return the best split of features with cosines ``C (n_feat, n_feat)``; a name needs a residual ≤ ``limit``."""
    search = _Search(C, span(C), limit, {}, {})
    if len(C) == 1:
        return Split([_block(search, (0,))], np.zeros(len(NOISE)))
    cuts = [_cut(links, search) for links in _dendrograms(C)]
    different = {frozenset(block.members for block in cut.blocks): cut for cut in cuts}
    return max((_improved(cut, search) for cut in different.values()), key=lambda cut: cut.gain)


def _block(search: _Search, members: tuple[int, ...]) -> Block:
    """Return some features, sorted, with their best name."""
    if len(members) > LARGEST:
        return Block(members, None)
    if members not in search.names:
        found = fits(search.C[np.ix_(members, members)], limit=search.limit)
        search.names[members] = found[0] if found else None
    return Block(members, search.names[members])


def _dendrograms(C: Array) -> list[Array]:
    """Return three orders of joining features, each ``(n_feat-1, 4)``: by one strong cosine, by the mean square, and by
    the mean cosine, which is −1/(k−1) inside every polytope that is centred, however weak its single cosines.
    """
    off = 1 - np.eye(len(C))  # (n_feat, n_feat)

    def pairs(distance: Array) -> Array:
        return squareform(np.maximum(distance, 0) * off, checks=False)

    return [
        linkage(pairs(1 - abs(C)), "single"), linkage(pairs(1 - C**2), "average"), linkage(pairs(1 + C), "average")
    ]  # fmt: skip


def _cut(links: Array, search: _Search) -> Split:
    """Return the best split along one dendrogram: each node stays whole or is the best of its two children."""
    n, squares = len(search.C), search.C**2
    blocks = [Block((j,), None) for j in range(n)]
    inside = np.zeros(2 * n - 1)  # (n_node,), Σ c² over the pairs of a node
    value = np.zeros((2 * n - 1, len(NOISE)))  # (n_node, n_noise)
    parts = np.zeros((2 * n - 1, len(NOISE)), dtype=bool)  # (n_node, n_noise), is it better in two?
    children = links[:, :2].astype(int)  # (n_link, 2)
    for node, (left, right) in enumerate(children, start=n):
        one, other = blocks[left].members, blocks[right].members
        blocks.append(_block(search, tuple(sorted(one + other))))
        cross = squares[np.ix_(one, other)].sum()
        inside[node] = inside[left] + inside[right] + cross
        whole = _inside_gain(blocks[node], inside[node], search.rank)  # (n_noise,)
        apart = pair_gain(len(one) * len(other), cross, cross, search.rank)  # (n_noise,)
        apart += value[left] + value[right]
        value[node], parts[node] = np.maximum(whole, apart), apart > whole
    level = value[-1].argmax()
    nodes, kept = [2 * n - 2], []
    while nodes:
        node = nodes.pop()
        if parts[node, level]:
            nodes += children[node - n].tolist()
        else:
            kept.append(_block(search, blocks[node].members))
    return Split(kept, gains_of(search.C, kept, search.rank))


def _inside_gain(block: Block, squares: float, rank: int) -> Array:
    """Return the gain of the pairs inside a block, of Σ c² = ``squares``, at each level of noise ``(n_noise,)``."""
    if block.fit is None:
        return np.full(len(NOISE), -PRICE * bool(block.members))
    pairs = len(block.members) * (len(block.members) - 1) / 2
    return pair_gain(pairs, squares, pairs * block.fit.residual**2, rank)


def gains_of(C: Array, blocks: list[Block], rank: int) -> Array:
    """Return the gain of a split of all features, or of some, at each level of noise ``(n_noise,)``."""
    members = [j for block in blocks for j in block.members]
    cross = _squares(C, members)  # less those inside blocks, below
    between = len(members) * (len(members) - 1) / 2
    total = np.zeros(len(NOISE))  # (n_noise,)
    for block in blocks:
        inside = _squares(C, block.members)
        total += _inside_gain(block, inside, rank)
        cross -= inside
        between -= len(block.members) * (len(block.members) - 1) / 2
    return total + pair_gain(between, cross, cross, rank)


def _squares(C: Array, members: Sequence[int]) -> float:
    """Return Σ c² over the pairs of some features."""
    return float((C[np.ix_(members, members)] ** 2).sum() - len(members)) / 2


def _improved(cut: Split, search: _Search) -> Split:
    """Return the split after joining two blocks, or moving a feature from one to another, as long as that gains.

    Under noise dendrograms lose vertices of polytopes whose cosines are weak (−¼ in the 5-cell).
    """
    while True:
        best = cut
        for i, j in _coupled(cut, search.C):
            one, other = cut.blocks[i], cut.blocks[j] if j != i else NOTHING
            for new, more in _exchanges(one, other, search):
                if (cut.gains + more).max() > best.gain + 1e-9:
                    kept = [block for block in cut.blocks if block is not one and block is not other]
                    best = Split(kept + new, cut.gains + more)
        if best is cut:
            return cut
        cut = best


def _coupled(cut: Split, C: Array) -> Array:
    """Return the pairs of blocks ``(n_pairs, 2)``, each with itself too, that are not as orthogonal as can be."""
    owner = np.zeros((len(cut.blocks), len(C)))  # (n_blocks, n_feat)
    for row, block in zip(owner, cut.blocks, strict=True):
        row[list(block.members)] = 1
    coupling = owner @ C**2 @ owner.T  # (n_blocks, n_blocks)
    return np.argwhere(np.tril(coupling >= 2 * cut.noise**2))


def _exchanges(one: Block, other: Block, search: _Search) -> list[tuple[list[Block], Array]]:
    """Return what could stand in place of two blocks, all of it named, with the gain of each ``(n_noise,)``."""
    key = one.members, other.members
    if key in search.exchanges:
        return search.exchanges[key]
    found = search.exchanges[key] = []
    before = gains_of(search.C, [one, other], search.rank)  # (n_noise,)
    for parts in _changes(*key):
        new = [_block(search, members) for members in parts if members]
        if all(block.fit for block in new):
            found.append((new, gains_of(search.C, new, search.rank) - before))
    return found


def _changes(one: tuple[int, ...], other: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield two blocks joined, and with one feature moved; sorted, none larger than the largest polytope."""
    if one and other and len(one) + len(other) <= LARGEST:
        yield tuple(sorted(one + other)), ()
    for giving, taking in ((one, other), (other, one)):
        if 1 < len(giving) <= LARGEST + 1 and len(taking) < LARGEST:
            for moved in giving:
                yield tuple(j for j in giving if j != moved), tuple(sorted((*taking, moved)))


def dimensions(named: list[Block]) -> int:
    """Return how many dimensions the names of some blocks claim."""
    return sum(block.fit.shape.frame.shape[0] for block in named if block.fit)


def evidence(C: Array, named: list[Block], rank: int) -> tuple[float, float]:
    """Return how much better than chance the blocks that have a name are found, in nats, and the noise at its best.

    All features without a name count as one block. The gain counts pairs as if their cosines were independent, but n
    vectors in r dimensions have only n(r−1) − r(r−1)/2 relative angles: it is scaled by their share. And the names
    could have been given to other features, in other orders: the logarithm of the number of ways is taken off.
    """
    n = len(C)
    pairs = n * (n - 1) / 2
    angles = n * (rank - 1) - rank * (rank - 1) / 2
    rest = tuple(sorted(set(range(n)).difference(*(block.members for block in named))))
    gains = gains_of(C, [*named, Block(rest, None)], rank) + PRICE * bool(rest)  # (n_noise,)
    shapes = [block.fit.shape for block in named if block.fit]
    ways = gammaln(n + 1) - gammaln(len(rest) + 1) - sum(np.log(shape.symmetries) for shape in shapes)
    ways -= sum(gammaln(count + 1) for count in Counter(shape.name for shape in shapes).values())
    share = min(1.0, angles / pairs) if pairs else 0.0
    return float(share * gains.max() - ways), float(NOISE[gains.argmax()])


def supported(C: Array, blocks: list[Block], *, least: float) -> tuple[list[Block], float, float]:
    """Return the blocks that keep their names, the evidence for them, and the noise.

    If some features have no name, a block must add ``least`` nats to the evidence, or it goes to the rest, the weakest
    first: in many features without order a few look like a polytope by chance. All names together need ``least`` nats.
    That is asked of more vectors than dimensions + 1; of fewer only that the evidence is not against the names.

    Blocks are orthogonal: names may not claim more dimensions than there are (:func:`room`), or leave none to features
    without one. The weakest go until that holds.
    """
    rank, most = span(C), room(C)
    least = least if len(C) > rank + 1 else 0.0
    named = [block for block in blocks if block.fit is not None]
    total, noise = evidence(C, named, rank)
    while named:
        rest = len(C) - sum(len(block.members) for block in named)
        crowded = dimensions(named) + bool(rest) > most
        if not rest and not crowded:
            break
        without = [evidence(C, named[:i] + named[i + 1 :], rank)[0] for i in range(len(named))]
        weakest = int(np.argmax(without))
        if not crowded and total - without[weakest] >= least:
            break
        named = named[:weakest] + named[weakest + 1 :]
        total, noise = evidence(C, named, rank)
    return (named, total, noise) if named and total >= least else ([], 0.0, 0.0)
