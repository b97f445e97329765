"""Random plans and rows, and random damage to them."""

import math
from array import array
from dataclasses import replace
from random import Random

from mlserve.plan import AMONG, BELOW, BELOW_OR_MISSING, UNARY, Input, Nodes, Op, Plan, codes_of, count_slots

ODD = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    5e-324,
    1e-300,
    1e300,
    -1e300,
    math.inf,
    -math.inf,
    math.nan,
    710.0,
    -746.0,
    3.0,
    1e16,
)


def number(rng):
    return rng.choice(ODD) if rng.random() < 0.3 else rng.gauss(0, 10 ** rng.uniform(-2, 3))


def finite(rng):
    return rng.gauss(0, 3)


def rising(rng, count):
    return tuple(sorted(finite(rng) for _ in range(count)))


def elementwise(rng, codes, slot):
    "A step that reads one slot"
    if codes[slot] and rng.random() < 0.6:
        if rng.random() < 0.3:
            return Op("pick", (slot,), tuple(float(rng.randrange(4)) for _ in range(codes[slot])))
        return Op("table", (slot,), tuple(finite(rng) for _ in range(codes[slot])))
    name = rng.choice(
        [*UNARY, "add", "sub", "mul", "div", "fill", "boxcox", "yeojohnson", "clip", "code", "quantile", "piece"]
    )
    if name in UNARY:
        return Op(name, (slot,))
    if name == "clip":
        return Op(name, (slot,), rising(rng, 2))
    if name == "code":
        return Op(name, (slot,), rising(rng, rng.randrange(5)))
    if name == "quantile":
        half = rng.randint(2, 6)
        return Op(name, (slot,), rising(rng, half) + rising(rng, half), (rng.randrange(2),))
    if name == "piece":
        degree, knots = rng.randint(1, 3), rng.randrange(4)
        pieces = tuple(finite(rng) for _ in range((knots + 1) * (degree + 2)))
        return Op(name, (slot,), rising(rng, knots) + pieces, (degree,))
    return Op(name, (slot,), (rng.choice([0.0, 1.0, 2.0, finite(rng)]),))


def combining(rng, slots):
    "A step that reads several slots"
    name = rng.choice(["times", "plus", "mean", "argmax", "softmax", "share", "linear", "quadratic", "guard"])
    n = {"times": 2, "guard": 1}.get(name) or rng.randint(1, 4)
    inputs = tuple(rng.randrange(slots) for _ in range(n))
    counts = {"mean": n + 1, "linear": (n + 1) * rng.randint(1, 3), "quadratic": (2 * n + 1) * rng.randint(1, 2)}
    numbers = tuple(finite(rng) for _ in range(counts.get(name, 0)))
    if name == "guard":
        numbers = (-1e200, rng.choice([math.inf, 50.0, 1e200]), 1.0)
    return Op(name, inputs, numbers, (rng.randrange(2),) if name == "share" else ())


def tree(rng, nodes, codes, width, at, depth):
    "Grow one node that is there already"
    if depth == 0 or rng.random() < 0.2:
        nodes.left[at] = len(nodes.leaves)
        nodes.leaves.extend(finite(rng) for _ in range(width))
        return
    slot = rng.randrange(len(codes))
    nodes.kind[at] = rng.choice((BELOW, BELOW_OR_MISSING, AMONG) if codes[slot] else (BELOW, BELOW_OR_MISSING))
    nodes.slot[at], nodes.cut[at] = slot, number(rng)
    if nodes.kind[at] == AMONG:
        nodes.cut[at] = len(nodes.sets)
        nodes.sets.extend(rng.getrandbits(64) for _ in range((codes[slot] + 63) // 64))
    nodes.left[at] = yes = grow(nodes, 2)
    tree(rng, nodes, codes, width, yes, depth - 1)
    tree(rng, nodes, codes, width, yes + 1, depth - 1)


def grow(nodes, count):
    for column in (nodes.kind, nodes.slot, nodes.cut, nodes.left):
        column.extend([0] * count)
    return len(nodes.kind) - count


def forest(rng, nodes, codes):
    first, start, width, trees = len(nodes.roots), len(nodes.kind), rng.randint(1, 4), rng.randint(1, 20)
    for _ in range(trees):
        nodes.roots.append(grow(nodes, 1))
        tree(rng, nodes, codes, width, nodes.roots[-1], rng.randint(0, 5))
    return Op("trees", (), tuple(finite(rng) for _ in range(width)), (first, trees, start, len(nodes.kind)))


def plan(seed):
    "A plan that is all right"
    rng, nodes = Random(seed), Nodes()
    roles = [rng.choice(["number", "number", "code", "unused"]) for _ in range(rng.randint(1, 6))]
    inputs = tuple(
        Input(f"f{i}", role, tuple(f"level {k}" for k in range(rng.choice([1, 3, 70]))) if role == "code" else ())
        for i, role in enumerate(roles)
    )
    codes, ops = [i.codes for i in inputs], []
    for _ in range(rng.randint(1, 12)):
        kind = rng.random()
        if kind < 0.5:
            op = elementwise(rng, codes, rng.randrange(len(codes)))
        elif kind < 0.8:
            op = combining(rng, len(codes))
        else:
            op = forest(rng, nodes, codes)
        made = Plan(inputs, (op,), (0,))
        ops.append(op)
        codes += [codes_of(op)] * (count_slots(made) - len(inputs))
    outputs = tuple(rng.randrange(len(codes)) for _ in range(rng.randint(1, 5)))
    return Plan(inputs, tuple(ops), outputs, nodes=nodes)


def value(rng, field):
    if rng.random() < 0.1:
        return None
    if field.role == "code":
        return rng.choice([*field.levels, "never seen"])
    return rng.randrange(-100, 100) if rng.random() < 0.2 else number(rng)


def rows(made, seed, count):
    "Rows for a plan"
    rng = Random(seed)
    return [tuple(value(rng, field) for field in made.inputs) for _ in range(count)]


def damaged(made, seed):
    "The same plan with something wrong, or not, in its steps or arrays"
    rng, n = Random(seed), made.nodes
    fields = {name: array(getattr(n, name).typecode, getattr(n, name)) for name in n.__dataclass_fields__}
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(list(fields))
        values = fields[name]
        if len(values):
            odd = {"B": [0, 1, 2, 3, 4, 255], "i": [-1, 0, 1, 7, 2**31 - 1, -(2**31)], "Q": [0, 2**64 - 1]}
            values[rng.randrange(len(values))] = rng.choice(odd.get(values.typecode, ODD))
            if rng.random() < 0.2:
                del values[rng.randrange(len(values)) :]
    ops = list(made.ops)
    if rng.random() < 0.6:
        k = rng.randrange(len(ops))
        op, wild = ops[k], rng.choice([-1, 0, 1, 5, 10**6, 2**31 - 2])
        ops[k] = rng.choice(
            [
                replace(op, inputs=(*op.inputs, wild)),
                replace(op, inputs=tuple(wild for _ in op.inputs)),
                replace(op, numbers=op.numbers[1:]),
                replace(op, numbers=(*op.numbers, math.nan)),
                replace(op, whole=tuple(wild if rng.random() < 0.5 else w for w in op.whole)),
                replace(op, name=rng.choice(["trees", "table", "piece", "linear", "nonsense"])),
            ]
        )
    return replace(made, ops=tuple(ops), nodes=Nodes(**fields), outputs=(*made.outputs, rng.choice([0, 3, 10**6])))
