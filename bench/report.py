"From visits to ratios, a table and a picture."

import statistics
from pathlib import Path

from servers import BARE, COMPILED, EMPTY, REFERENCE, UNKEPT, WHOLE

MEASURES = ("rps", "cpu_ms", "p50_ms", "p99_ms", "rss_mb")
BASES = {"reference": REFERENCE, "empty": EMPTY, "bare": BARE, "unkept": UNKEPT}


def _median(values):
    return statistics.median(values) if values else None


def describe(cold, visits, size):
    "The figures of one server: medians over its starts and over rounds"
    clients = sorted({v["clients"] for v in visits})
    load = {
        str(c): {m: round(_median([v[m] for v in visits if v["clients"] == c]), 4) for m in MEASURES} for c in clients
    }
    return {
        "cold_s": round(_median([wall for wall, _ in cold]), 3),
        "cold_cpu_s": round(_median([cpu for _, cpu in cold]), 3),
        "cold_cpu_each": [round(cpu, 3) for _, cpu in cold],
        "rss_mb": round(max(v["rss_mb"] for v in visits), 1),
        "load": load,
        "size": size,
        "visits": visits,
    }


def _against(visits, base, clients, measure):
    "A server's figure divided by another's in the same round: median, least and most over rounds"
    theirs = {v["round"]: v[measure] for v in base if v["clients"] == clients}
    mine = {v["round"]: v[measure] for v in visits if v["clients"] == clients}
    each = [mine[r] / theirs[r] for r in mine if theirs.get(r)]
    if not each:
        return None
    return {"median": round(_median(each), 4), "low": round(min(each), 4), "high": round(max(each), 4)}


def ratios(visits):
    "server -> reference, empty, bare or unkept -> clients -> measure -> ratio inside a round"
    clients = sorted({v["clients"] for seen in visits.values() for v in seen})
    there = {short: visits[name] for short, name in BASES.items() if name in visits}
    return {
        name: {
            short: {str(c): {m: _against(seen, base, c, m) for m in ("rps", "cpu_ms", "p50_ms")} for c in clients}
            for short, base in there.items()
        }
        for name, seen in visits.items()
    }


PYTHON, FALLBACK = "mlserve Python", "mlserve sklearn"

# What is promised: words, server, base, clients, measure of the ratio, least or most, bound
RATIO_GOALS = (
    ("requests/s, compiled, 64 clients, × the reference", COMPILED, "reference", 64, "rps", ">=", 200),
    ("requests/s, plain Python, 64 clients, × the reference", PYTHON, "reference", 64, "rps", ">=", 100),
    ("requests/s, compiled, 64 clients, × an empty FastAPI endpoint", COMPILED, "empty", 64, "rps", ">=", 2.5),
    ("requests/s, compiled, 64 clients, of bare ASGI", COMPILED, "bare", 64, "rps", ">=", 0.7),
    ("requests/s, compiled, 64 clients, of those without the journal", COMPILED, "unkept", 64, "rps", ">=", 0.9),
    ("median answer of a lone client, compiled, of the reference's", COMPILED, "reference", 1, "p50_ms", "<=", 1 / 80),
    ("requests/s, fallback engine, 64 clients, × the reference", FALLBACK, "reference", 64, "rps", ">=", 15),
    ("requests/s, fallback engine, a lone client, × the reference", FALLBACK, "reference", 1, "rps", ">=", 0.95),
)


def _spread(values, scale=1.0):
    values = [v * scale for v in values]
    return {"median": round(_median(values), 4), "low": round(min(values), 4), "high": round(max(values), 4)}


def _figure_goals(found):
    "Words, what was measured (None: was not), sign and bound, for all that is no ratio of two servers under load"
    servers, batch = found["servers"], found["batch"]
    mine, empty, size = (servers.get(n, {}) for n in (COMPILED, EMPTY, COMPILED))
    size, cold = size.get("size") or {}, mine.get("cold_cpu_each") or []
    against = [c / empty["cold_cpu_s"] for c in cold] if empty.get("cold_cpu_s") else []
    columns = batch["ways"].get(COMPILED, {}).get("columns", {})
    exact = {name: {"median": v, "low": v, "high": v} for name, v in batch.get("seconds", {}).items()}
    memory = [v["rss_mb"] for v in mine.get("visits", [])]
    weight, heavy = size.get("gzip_mb"), size.get("heavy")
    return (
        ("CPU seconds from the start to the first answer", cold and _spread(cold), "<=", 0.5),
        ("the same, × an empty FastAPI service", against and _spread(against), "<=", 1.2),
        ("resident memory under load, MB", memory and _spread(memory), "<=", 60),
        ("packages, MB gzipped", weight and _spread([weight]), "<=", 10),
        (
            "numpy, pandas, scipy, scikit-learn among them",
            _spread([len(heavy)]) if heavy is not None else None,
            "<=",
            0,
        ),
        ("10,000 rows as JSON columns, compiled, × pandas + scikit-learn", columns.get("spread"), ">=", 2.5),
        ("seconds to fold the forest (100 trees)", exact.get("fold forest"), "<=", 60),
        ("seconds to fold boosted trees (500 rounds)", exact.get("fold boosting"), "<=", 60),
        ("seconds to load the forest's plan", exact.get("load plan"), "<=", 0.3),
    )


def goals(found):
    "What is promised, what was measured, and whether it holds: by the median; a goal not measured is not reached"
    wanted = []
    for words, name, base, clients, measure, sign, bound in RATIO_GOALS:
        one = found["ratios"].get(name, {}).get(base, {}).get(str(clients), {}).get(measure)
        wanted.append((words, one, sign, bound))
    made = []
    for words, seen, sign, bound in (*wanted, *_figure_goals(found)):
        holds = bool(seen) and (seen["median"] >= bound if sign == ">=" else seen["median"] <= bound)
        made.append({"goal": words, "sign": sign, "bound": bound, "measured": seen or None, "holds": holds})
    return made


def _goals(found):
    rows = []
    for one in found["goals"]:
        seen = one["measured"]
        said = f"{seen['median']:.4g}" if seen else "not measured"
        span = f"{seen['low']:.4g} to {seen['high']:.4g}" if seen else "–"
        sign = {">=": "at least", "<=": "at most"}[one["sign"]]
        rows.append([one["goal"], f"{sign} {one['bound']:.4g}", said, span, "yes" if one["holds"] else "**no**"])
    return _markdown(["goal", "promised", "median", "least to most", "reached"], rows)


def _figure(value, digits=3):
    "A number with so many digits that say something"
    if value is None:
        return "–"
    if value >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _ratio(found, name, base, clients, measure="rps"):
    one = found["ratios"][name].get(base, {}).get(str(clients), {}).get(measure)
    return one["median"] if one else None


def _markdown(head, rows):
    lines = [f"| {' | '.join(head)} |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


def _clients(found):
    return [str(c) for c in found["settings"]["clients"]]


def _speed(found):
    clients, most = _clients(found), _clients(found)[-1]
    head = ["server", *(f"× {REFERENCE}, {c} client{'s' * (c != '1')}" for c in clients)]
    head += [f"× {EMPTY}, {most}", f"of {BARE}, {most}", f"CPU ms/request, {most}"]
    head += [f"requests/s, {most}", "p50/p99 ms, 1", f"p50/p99 ms, {most}"]
    rows = []
    for name, server in found["servers"].items():
        last, first = server["load"][most], server["load"][clients[0]]
        row = [name, *(_figure(_ratio(found, name, "reference", c)) for c in clients)]
        row += [_figure(_ratio(found, name, "empty", most)), _figure(_ratio(found, name, "bare", most))]
        row += [_figure(last["cpu_ms"]), _figure(last["rps"])]
        rows.append([*row, *(f"{_figure(v['p50_ms'])} / {_figure(v['p99_ms'])}" for v in (first, last))])
    return _markdown(head, rows)


def _effort(found):
    "CPU time and waiting of the reference, as multiples of each server's"
    clients = _clients(found)
    head = ["server", *(f"CPU time of the reference ÷ its own, {c}" for c in clients)]
    head += ["p50 of the reference ÷ its own, 1"]

    def times(name, c, measure):
        ratio = _ratio(found, name, "reference", c, measure)
        return _figure(1 / ratio if ratio else None)

    return _markdown(
        head, [[n, *(times(n, c, "cpu_ms") for c in clients), times(n, "1", "p50_ms")] for n in found["servers"]]
    )


def _footprint(found):
    head = ["server", "first answer, s", "of that CPU, s", f"CPU ÷ {EMPTY}", "memory under load, MB"]
    head += ["packages, MB gzipped", "distributions", "of these numpy & co."]
    empty = found["servers"].get(EMPTY)
    rows = []
    for name, server in found["servers"].items():
        weight = server["size"] if name not in (EMPTY, BARE) else None  # these run in the reference's environment
        times = server["cold_cpu_s"] / empty["cold_cpu_s"] if empty and empty["cold_cpu_s"] else None
        row = [name, f"{server['cold_s']:.2f}", f"{server['cold_cpu_s']:.2f}", _figure(times)]
        row += [_figure(server["rss_mb"])]
        row += [f"{weight['gzip_mb']:.1f}", str(weight["distributions"])] if weight else ["–", "–"]
        rows.append([*row, (", ".join(weight["heavy"]) or "none") if weight else "–"])
    return _markdown(head, rows)


def journal(found):
    "What keeping answers costs: of the same server's figures when it keeps none, inside a round"
    clients = _clients(found)
    head = ["answers kept", *(f"requests/s of those without, {c}" for c in clients)]
    head += [f"CPU time × that without, {c}" for c in clients]
    rows = []
    for name, kept in ((COMPILED, "as many as by default"), (WHOLE, "all")):
        if UNKEPT in found["servers"] and name in found["servers"]:
            each = [[_ratio(found, name, "unkept", c, m) for c in clients] for m in ("rps", "cpu_ms")]
            rows.append([kept, *(_figure(v) for v in (*each[0], *each[1]))])
    return f"## What the journal costs\n\n{_markdown(head, rows)}\n" if rows else ""


def _seconds(found):
    return "; ".join(f"{name}: {took} s" for name, took in found["batch"]["seconds"].items())


def _batch(found):
    ways, rows = found["batch"]["ways"], []
    for name, shapes in ways.items():
        row = [name]
        for shape in ("columns", "records"):
            one = shapes.get(shape)
            row += [_figure(one["krows_s"]), _figure(one["x_pandas"])] if one else ["–", "–"]
        rows.append(row)
    return _markdown(["in process", "columns, 1000 rows/s", "× pandas", "records, 1000 rows/s", "× pandas"], rows)


def table(found):
    "All figures as Markdown"
    s, m = found["settings"], found["machine"]
    quick = "**A quick run: to see that it works, not to quote.**\n\n" if s["quick"] else ""
    skipped = found["skipped"] | {f"Batch of {k}": v for k, v in found["batch"]["skipped"].items()}
    left_out = "".join(f"- {name}: {why}\n" for name, why in skipped.items())
    return f"""# How fast it serves

{quick}One model ({found["model"]}: 100 trees of depth 12), one row a request, one worker on one core, the load on
another; {s["rounds"]} rounds of {s["seconds"]} seconds a visit, up to three times that for slow servers, in turn, each after
{s["lead"]} seconds of the same load that do not count.
Ratios are medians of the ratios inside a round. The absolute figures depend on the machine
({m["processor"]}, {m["cores"]} cores, Python {m["python"]}), the ratios much less.

## What is promised

{_goals(found)}
## Speed

{_speed(found)}
{_effort(found)}
{journal(found)}## Footprint

{_footprint(found)}
A first answer is measured from the start of the process, with a warm disk cache. Memory is resident memory,
summed over the server's processes. Packages are those of a fresh environment, without byte code and without the model.

## {found["batch"]["rows"]:,} rows at once, JSON bytes to labels

In one process, without checking the rows. {_seconds(found)}.

{_batch(found)}
{"## Not measured" + chr(10) * 2 + left_out if left_out else ""}"""


def _bars(axes, names, values, title, said, colours):
    axes.barh(names, values, color=colours)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(title, loc="left")
    axes.grid(axis="y", visible=False)
    for place, value in enumerate(values):
        axes.annotate(said(value), (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=11)


def draw(found, file: Path):
    "Throughput and memory as bars; a server has one colour in both"
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from mlserve.plots import BLUE, FAINT, INK, ORANGE, PAPER

    names, most = [n for n in found["servers"] if n not in (UNKEPT, WHOLE)], _clients(found)[-1]  # a table has those
    colours = [BLUE if n.startswith("mlserve") else FAINT if n in (EMPTY, BARE) else ORANGE for n in names]
    style = {"text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": FAINT}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#E4E4E4"}
    style |= {"axes.axisbelow": True, "axes.facecolor": PAPER, "font.size": 12.5, "axes.titlesize": 11}
    with mpl.rc_context(style):
        figure = Figure(figsize=(9.5, 1.1 + 0.4 * len(names)), layout="constrained", facecolor=PAPER, dpi=144)
        left, right = figure.subplots(1, 2, sharey=True)
        speed = [_ratio(found, n, "reference", most) for n in names]
        title = f"Requests/s, × {REFERENCE}, {most} clients"
        _bars(left, names, speed, title, lambda v: f"{_figure(v)}×", colours)
        left.set_xscale("log")
        left.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        left.set_xlim(min(speed) / 2, max(speed) * 4)
        memory = [found["servers"][n]["rss_mb"] for n in names]
        _bars(right, names, memory, "Memory under load, MB", _figure, colours)
        right.set_xlim(0, max(memory) * 1.2)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1)
        figure.savefig(file)
